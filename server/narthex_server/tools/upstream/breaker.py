"""A circuit breaker: when an upstream fails again and again, callers are told at once instead of waiting for it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from narthex_server.tools.server import BreakerState

SLICES = 10
"""The window moves on in so many steps, so that what is kept does not grow with the calls."""

SHARE = 0.5
"""How much of what ended in the window has to have failed: one bad tool among many good calls shuts nothing."""

PROBE_PAUSE = 1.0
"""Seconds, at most, after which to ask again while another call tries whether the upstream works."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """`failures` within `window` seconds open it, for `open` seconds."""

    failures: int = 5
    window: float = 30.0
    open: float = 10.0


@dataclass(slots=True)
class _Slice:
    number: int
    good: int = 0
    bad: int = 0


class Admission:
    """A call that was let through; it ends once."""

    __slots__ = ("_breaker", "_period")

    def __init__(self, breaker: "Breaker", period: int) -> None:
        self._breaker: Breaker | None = breaker
        self._period = period

    def end(self, good: bool | None) -> None:
        """How it went; None says nothing about the upstream. Only the first word counts."""
        if self._breaker is not None:
            self._breaker._end(self._period, good)
            self._breaker = None


class Breaker:
    """Closed it admits all calls and counts; open none; half-open one at a time, whose success closes it.

    `clock` gives seconds.
    """

    def __init__(self, settings: BreakerSettings, clock: Callable[[], float] = monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._slices: deque[_Slice] = deque(maxlen=SLICES)
        self._opened: float | None = None
        self._probing = False
        self._period = 0  # a call that was admitted in an earlier one says nothing about this one
        self.trips = 0

    @property
    def state(self) -> BreakerState:
        if self._opened is None:
            return BreakerState.CLOSED
        passed = self._clock() - self._opened >= self._settings.open
        return BreakerState.HALF_OPEN if passed else BreakerState.OPEN

    @property
    def retry_after(self) -> float:
        """Seconds until a call may be admitted; 0 if one would be now."""
        match self.state:
            case BreakerState.OPEN:
                assert self._opened is not None
                return self._opened + self._settings.open - self._clock()
            case BreakerState.HALF_OPEN if self._probing:
                return min(PROBE_PAUSE, self._settings.open)
        return 0.0

    def admit(self) -> Admission | None:
        """Lets a call through, or does not; whoever is let through says how it ended."""
        match self.state:
            case BreakerState.OPEN:
                return None
            case BreakerState.HALF_OPEN:
                if self._probing:
                    return None
                self._probing = True
        return Admission(self, self._period)

    def reset(self) -> None:
        """Forgets what was, and closes."""
        self._begin(None)

    def _end(self, period: int, good: bool | None) -> None:
        if period != self._period:
            return
        if self._opened is not None:
            self._probing = False
            if good is not None:
                self._trip() if not good else self.reset()
        elif good is not None:
            self._count(good)

    def _count(self, good: bool) -> None:
        number = int(self._clock() * SLICES / self._settings.window)
        while self._slices and self._slices[0].number <= number - SLICES:
            self._slices.popleft()
        if not self._slices or self._slices[-1].number != number:
            self._slices.append(_Slice(number))
        if good:
            self._slices[-1].good += 1
            return
        self._slices[-1].bad += 1
        bad = sum(one.bad for one in self._slices)
        ended = bad + sum(one.good for one in self._slices)
        if bad >= self._settings.failures and bad >= SHARE * ended:
            self._trip()

    def _trip(self) -> None:
        self.trips += 1
        self._begin(self._clock())

    def _begin(self, opened: float | None) -> None:
        self._opened = opened
        self._probing = False
        self._period += 1
        self._slices.clear()
