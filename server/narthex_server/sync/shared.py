"""Locks that many may hold to read, or one to write."""

import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Protocol

from narthex_server.sync.meter import Joined
from narthex_server.sync.mutex import Mutex


class Shared(Protocol):
    """`with lock.read:` beside others who read, `with lock.write:` alone; neither may be asked for within the other."""

    @property
    def read(self) -> Mutex: ...

    @property
    def write(self) -> Mutex: ...


class SharedLock:
    """A Shared that prefers writers: while one waits, no other reader comes in.

    Writers come in in the order in which they asked, one handing over to the next; when none is left all readers that
    wait come in together. So readers wait as long as writers keep coming: for what is written seldom.
    """

    __slots__ = ("_state", "read", "write")

    def __init__(self, meter: Joined) -> None:
        self._state = _State(meter)
        self.read: Mutex = _Side(self._state.begin_read, self._state.end_read)
        self.write: Mutex = _Side(self._state.begin_write, self._state.end_write)

    @property
    def waiting(self) -> tuple[int, int]:
        """How many wait to read, and how many to write."""
        return self._state.waiting


class ExclusiveLock:
    """A Shared over a mutex: readers keep each other out as well."""

    __slots__ = ("read", "write")

    def __init__(self, mutex: Mutex) -> None:
        self.read = self.write = mutex


class _Side:
    __slots__ = ("_begin", "_end")

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._begin = begin
        self._end = end

    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()


class _Turn:
    """What a thread waits for until another one lets it in."""

    __slots__ = ("came", "wait")

    def __init__(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        self.wait = gate.acquire
        self.came = gate.release


class _State:
    """Who is in and who waits; all of it is guarded by `_gate`, which is never held while anybody waits."""

    __slots__ = ("__weakref__", "_counts", "_gate", "_readers", "_reading", "_writers", "_writing")

    def __init__(self, meter: Joined) -> None:
        self._gate = threading.Lock()
        self._reading = 0
        self._writing = False
        self._readers: list[_Turn] = []
        self._writers: deque[_Turn] = deque()
        self._counts = meter.join(self)

    @property
    def waiting(self) -> tuple[int, int]:
        return len(self._readers), len(self._writers)

    def begin_read(self) -> None:
        began = 0.0 if self._gate.acquire(False) else self._enter()
        if not self._writing and not self._writers:
            self._reading += 1
            if self._reading == 1:
                self._counts.took()
            else:
                self._counts.joined()
            if began:
                self._counts.waited(perf_counter() - began)
            self._gate.release()
            return
        turn = _Turn()
        self._readers.append(turn)
        self._gate.release()
        self._wait(turn, began, self._give_up_reading)

    def end_read(self) -> None:
        with self._gate:
            self._reading -= 1
            if not self._reading:
                self._counts.left()
                if self._writers:
                    self._let_writer_in()

    def begin_write(self) -> None:
        began = 0.0 if self._gate.acquire(False) else self._enter()
        if not self._writing and not self._reading:
            self._writing = True
            self._counts.took()
            if began:
                self._counts.waited(perf_counter() - began)
            self._gate.release()
            return
        turn = _Turn()
        self._writers.append(turn)
        self._gate.release()
        self._wait(turn, began, self._give_up_writing)

    def end_write(self) -> None:
        with self._gate:
            self._writing = False
            self._counts.left()
            if self._writers:
                self._let_writer_in()
            else:
                self._let_readers_in()

    def _enter(self) -> float:
        """Waits for the gate; when the wait began."""
        began = perf_counter()
        self._gate.acquire()
        return began

    def _wait(self, turn: _Turn, began: float, give_up: Callable[[_Turn], None]) -> None:
        began = began or perf_counter()
        try:
            turn.wait()
        except BaseException:  # an interrupt: whoever waits behind this one goes on
            give_up(turn)
            raise
        finally:
            with self._gate:
                self._counts.waited(perf_counter() - began)

    def _give_up_reading(self, turn: _Turn) -> None:
        with self._gate:
            waiting = turn in self._readers
            if waiting:
                self._readers.remove(turn)
        if not waiting:
            self.end_read()

    def _give_up_writing(self, turn: _Turn) -> None:
        with self._gate:
            waiting = turn in self._writers
            if waiting:
                self._writers.remove(turn)
                if not self._writers and not self._writing:
                    self._let_readers_in()
        if not waiting:
            self.end_write()

    def _let_writer_in(self) -> None:
        self._writing = True
        self._counts.took()
        self._writers.popleft().came()

    def _let_readers_in(self) -> None:
        for number, turn in enumerate(self._readers, start=self._reading):
            (self._counts.joined if number else self._counts.took)()
            turn.came()
        self._reading += len(self._readers)
        self._readers.clear()
