"""What one lock counts."""

from bisect import bisect_left
from time import perf_counter
from typing import Protocol

from narthex_server.sync.reading import BOUNDS, Distribution

SAMPLED = 16
"""One hold of so many is timed, the first among them; a power of two."""

REST = SAMPLED - 1


class Counts(Protocol):
    """Told by a lock of what happens to it, by whoever may touch the lock's state at that moment."""

    def took(self) -> None:
        """Somebody has it, from now on."""

    def joined(self) -> None:
        """Somebody has it beside others, who let it in."""

    def left(self) -> None:
        """Nobody has it any more, or the next one at once."""

    def waited(self, seconds: float) -> None:
        """Somebody had to wait so long."""


class Spread:
    """A distribution that grows; for one thread at a time."""

    __slots__ = ("counts", "longest", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = self.longest = 0.0

    def note(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    def now(self) -> Distribution:
        return Distribution(tuple(self.counts), self.total, self.longest)


class Tally:
    """Plain numbers that the lock itself guards, so that counting needs no other; anybody may read them.

    `since` is when the hold that is timed began, 0 while none is.
    """

    __slots__ = ("acquisitions", "holds", "since", "waits")

    def __init__(self) -> None:
        self.acquisitions = 0
        self.since = 0.0
        self.waits = Spread()
        self.holds = Spread()

    def took(self) -> None:
        self.acquisitions = taken = self.acquisitions + 1
        if taken & REST == 1:
            self.since = perf_counter()

    def joined(self) -> None:
        self.acquisitions += 1

    def left(self) -> None:
        if self.since:
            self.holds.note(perf_counter() - self.since)
            self.since = 0.0

    def waited(self, seconds: float) -> None:
        self.waits.note(seconds)


class Uncounted:
    """Counts where nobody wants to know."""

    __slots__ = ()

    def took(self) -> None:
        pass

    def joined(self) -> None:
        pass

    def left(self) -> None:
        pass

    def waited(self, seconds: float) -> None:
        pass
