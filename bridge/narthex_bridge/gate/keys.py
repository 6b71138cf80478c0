"""Callers that show an API key."""

from narthex.keys import KeyRing

from narthex_bridge.caller import Caller


class Keys:
    """Knows callers by the keys of a key file."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def caller(self, token: str) -> Caller | None:
        key = self._ring.principal(token)
        return Caller(key.name, key.tenant, key.tools, key.rate) if key else None

    def expired(self, token: str) -> bool:
        return self._ring.expired(token)
