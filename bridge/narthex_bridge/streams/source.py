"""Where the events of a stream come from."""

from typing import Protocol

Event = tuple[int, bytes]
LOST = b""


class Source(Protocol):
    """Where a reader finds the events of one stream; only a `finite` one has an end after which nothing comes."""

    finite: bool

    async def after(self, reader: object, number: int, patience_s: float) -> list[Event] | None:
        """The events after a number (see `with_losses`); empty after `patience_s` seconds without one, None where there
        will be none for this reader. Raises StoreUnavailable."""

    def leave(self, reader: object) -> None:
        """Says that a reader has gone, whatever the reason."""


def with_losses(number: int, events: list[Event], last: int) -> list[Event]:
    """Events after a number, as readers get them: (n, LOST) stands for those up to n that are not kept any more."""
    begin = events[0][0] if events else last + 1
    return [(begin - 1, LOST), *events] if begin > number + 1 else events
