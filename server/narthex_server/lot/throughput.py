"""How fast a pool gets on with what waits."""

UNKNOWN = 1.0
"""What is said, in seconds, where nothing has ended yet while something waited."""
SOONEST, LATEST = 0.1, 60.0
WEIGHT = 0.2
"""Of the last interval in the mean of all."""


class Throughput:
    """The mean interval between two ends of work, of the times in which there was more to do."""

    def __init__(self) -> None:
        self._interval: float | None = None
        self._since: float | None = None

    def ended(self, now: float, waiting: bool) -> None:
        """Work ended; `waiting` is whether more wants to begin."""
        if self._since is not None:
            passed = now - self._since
            known = passed if self._interval is None else self._interval
            self._interval = known + WEIGHT * (passed - known)
        self._since = now if waiting else None

    def waits(self, now: float) -> None:
        """Somebody begins to wait."""
        if self._since is None:
            self._since = now

    def seconds(self, count: int) -> float:
        """How long so many that wait will take, at least SOONEST, at most LATEST."""
        expected = UNKNOWN if self._interval is None else count * self._interval
        return min(max(expected, SOONEST), LATEST)
