"""Who waits for a slot, and who of them is next."""

from collections import deque
from collections.abc import Iterator

from narthex_server.engine.sequence import Sequence


class Line:
    """First come, first served; whoever is sent back goes before all that were never served.

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
        self._waiting.append(sequence)

    def rejoin(self, sequence: Sequence) -> None:
        """Wait again after having run; the youngest first where several are sent back."""
        self._waiting.appendleft(sequence)

    def leave(self, sequence: Sequence) -> None:
        self._waiting.remove(sequence)
