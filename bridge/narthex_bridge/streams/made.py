"""A stream that this process makes, and whoever reads it, here or elsewhere."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from narthex_bridge.streams.grace import Grace
from narthex_bridge.streams.stream import Stream

_ELSEWHERE = object()  # the reader of a stream that another replica reads


@dataclass(slots=True, eq=False)
class Made:
    """A stream that this process makes: when its reader goes, its calls go on for the grace.

    `elsewhere` is its reader at another replica. Those before, `dismissed`, may not have noticed yet that they were.
    """

    stream: Stream
    grace: Grace
    elsewhere: str = ""
    dismissed: set[str] = field(default_factory=set)

    def read_by(self, reader: object) -> None:
        self._dismiss()
        self.grace.end()
        self.stream.attach(reader)

    def read_elsewhere(self, reader: str, number: int, tell: Callable[[], Awaitable[None]]) -> bool:
        """Whether this reader may; up to event `number` it has."""
        if reader in self.dismissed:
            return False
        if reader != self.elsewhere:
            self._dismiss()
            self.elsewhere = reader
            self.stream.attach(_ELSEWHERE)
            self.stream.told = tell
        self.grace.begin(number)
        return True

    def _dismiss(self) -> None:
        if self.elsewhere:
            self.dismissed.add(self.elsewhere)
        self.elsewhere, self.stream.told = "", None
