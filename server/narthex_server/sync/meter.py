"""What the locks of one name have counted together."""

import threading
import weakref
from collections import deque
from dataclasses import replace
from typing import Protocol

from narthex_server.sync.reading import LockReading
from narthex_server.sync.tally import Counts, Tally, Uncounted


class Joined(Protocol):
    """Where a lock gets what it counts with."""

    def join(self, lock: object) -> Counts:
        """For one new lock."""


class Meter:
    """Adds up the tallies of all locks of a name; what a lock has counted stays when the lock goes."""

    def __init__(self, name: str) -> None:
        self._guard = threading.Lock()  # never held while a counted lock is taken or given back
        self._live: dict[weakref.ref[object], Tally] = {}
        self._gone: deque[weakref.ref[object]] = deque()  # whose locks ended: appended to at any time, in any thread
        self._settled = LockReading(name)

    def join(self, lock: object) -> Tally:
        tally = Tally()
        with self._guard:
            self._settle()
            self._live[weakref.ref(lock, self._gone.append)] = tally
        return tally

    def reading(self) -> LockReading:
        """The sum now; each number never falls."""
        with self._guard:
            self._settle()
            total = self._settled
            for tally in self._live.values():
                total = _added(total, tally)
            return total

    def _settle(self) -> None:
        while self._gone:
            self._settled = _added(self._settled, self._live.pop(self._gone.popleft()))


def _added(reading: LockReading, tally: Tally) -> LockReading:
    return replace(
        reading,
        acquisitions=reading.acquisitions + tally.acquisitions,
        waits=reading.waits + tally.waits.now(),
        holds=reading.holds + tally.holds.now(),
    )


class Unmetered:
    """The Joined of locks that do not count."""

    def join(self, lock: object) -> Counts:
        return Uncounted()
