"""Locks for one thread at a time."""

import threading
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import TypeAlias

from narthex_server.sync.meter import Meter
from narthex_server.sync.tally import REST

Mutex: TypeAlias = AbstractContextManager[object]
"""Held within a `with`; whoever has it and asks for it again waits for itself."""


class WaitingMutex:
    """A threading.Lock that notes how often and how long it was waited for; where nobody waits it costs one call more.

    Not in order: of several that wait, the system chooses. Also a lock for threading.Condition.
    """

    __slots__ = ("__weakref__", "_lock", "_release", "_take", "_tally")

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        self._take = self._lock.acquire
        self._release = self._lock.release
        self._tally = meter.join(self)

    def __enter__(self) -> None:
        if not self._take(False):
            self._wait()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._release()

    def acquire(self, blocking: bool = True) -> bool:
        """Takes it; False where it is not `blocking` and another has it."""
        if blocking:
            self.__enter__()
            return True
        return self._take(False)

    def release(self) -> None:
        """Gives it back. Raises RuntimeError where nobody has it."""
        self.__exit__(None, None, None)

    def _wait(self) -> None:
        began = perf_counter()
        self._take()
        self._tally.waits.note(perf_counter() - began)


class MeteredMutex(WaitingMutex):
    """A WaitingMutex that also counts how often it was taken, and times one hold of SAMPLED, the first among them."""

    __slots__ = ()

    def __enter__(self) -> None:
        if not self._take(False):
            self._wait()
        tally = self._tally  # the count is here and not in a call of its own: that would cost as much as all the rest
        tally.acquisitions = taken = tally.acquisitions + 1
        if taken & REST == 1:
            tally.since = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._tally.since:
            self._tally.left()
        self._release()

    def acquire(self, blocking: bool = True) -> bool:
        if blocking:
            self.__enter__()
            return True
        if taken := self._take(False):
            self._tally.took()
        return taken
