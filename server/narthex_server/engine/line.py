"""Who waits for a slot, and who of them is next."""

from collections import deque
from collections.abc import Iterator

from narthex_server.engine.request import Urgency
from narthex_server.engine.sequence import Sequence

YIELDS = 2
"""How many urgent requests a less urgent one lets go before it, at most: each may cost it its turn, or its slot."""


def yields(sequence: Sequence) -> bool:
    """Whether it lets one more go before it."""
    return sequence.request.urgency is not Urgency.HIGH and sequence.yielded < YIELDS


class Line:
    """First come, first served, but that urgent ones pass others; whoever is sent back goes before all never served.

    The one place that knows an order among those that wait.
    """

    def __init__(self) -> None:
        self._waiting: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    @property
    def first(self) -> Sequence | None:
        """The next one; nobody overtakes it, so that a large request is not put off for ever."""
        return self._waiting[0] if self._waiting else None

    def join(self, sequence: Sequence) -> None:
        place = len(self._waiting)
        if sequence.request.urgency is Urgency.HIGH:
            while place and yields(self._waiting[place - 1]):
                place -= 1
                self._waiting[place].yielded += 1
        self._waiting.insert(place, sequence)

    def rejoin(self, sequence: Sequence) -> None:
        """Wait again after having run; the youngest first where several are sent back."""
        self._waiting.appendleft(sequence)

    def leave(self, sequence: Sequence) -> None:
        self._waiting.remove(sequence)
