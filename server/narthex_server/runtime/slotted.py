"""What happens to the slots of a session between steps."""

from narthex_server.runtime.slot_cache import Saved, SlotCache


class Slotted:
    """The part of the engine's DecoderSession that is the same for all sessions over one SlotCache."""

    appends = True
    """A prefill in the middle of a text gives what single tokens give."""
    _cache: SlotCache

    @property
    def token_bytes(self) -> int:
        """What a slot grows by with each token."""
        return self._cache.token_bytes

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` cached tokens of one slot to another, and the state that it is in."""
        self._cache.copy(source, target, length)

    def save(self, slot: int) -> Saved:
        return self._cache.save(slot)

    def restore(self, slot: int, saved: Saved) -> None:
        self._cache.restore(slot, saved)

    def release(self, slot: int, length: int = 0) -> None:
        """Give a slot's memory behind its first `length` tokens back to the system."""
        self._cache.release(slot, length)
