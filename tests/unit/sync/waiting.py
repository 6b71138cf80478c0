"""Threads at a lock, for tests that say when each of them goes on."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

PATIENCE = 20.0


def until(condition: Callable[[], object]) -> None:
    """Lets other threads run until it is so; fails where that takes too long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0)


class Visitor:
    """A thread that asks for a lock and holds it until it is told to leave."""

    def __init__(self, lock: AbstractContextManager[object], came: Callable[[], object] = lambda: None) -> None:
        """`came` is called with the lock in hand."""
        self._lock = lock
        self._came = came
        self._leave = threading.Event()
        self._inside = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def inside(self) -> bool:
        return self._inside.is_set()

    def enter(self) -> None:
        assert self._inside.wait(PATIENCE), "it never got the lock"

    def leave(self) -> None:
        """Returns when the thread has ended."""
        self._leave.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with self._lock:
            self._came()
            self._inside.set()
            self._leave.wait()


@contextmanager
def held(lock: AbstractContextManager[object]) -> Iterator[None]:
    """Another thread has the lock within the block."""
    visitor = Visitor(lock)
    visitor.enter()
    try:
        yield
    finally:
        visitor.leave()
