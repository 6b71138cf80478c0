"""A pace that somebody is held to."""

from collections.abc import Callable
from time import monotonic


class Pace:
    """So many things a second; `burst` of them may come at once."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._interval = 1 / rate
        self._ahead = burst / rate
        self._clock = clock
        self._due = 0.0  # when the next would come if they came evenly

    def take(self) -> float:
        """One has come; returns the seconds to wait before the next is looked at."""
        now = self._clock()
        self._due = max(self._due, now - self._ahead) + self._interval
        return max(0.0, self._due - now)
