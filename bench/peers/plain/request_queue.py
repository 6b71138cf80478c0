"""Requests on their way to the batching loop."""

import threading
from collections import deque

from narthex_server.engine.sequence import Sequence
from narthex_server.sync.locks import Locks


class RequestQueue:
    """Request threads put sequences and cancel them, the loop takes all at once; it sleeps while there is nothing."""

    def __init__(self, locks: Locks) -> None:
        self._lock = locks.mutex("request_queue")
        self._arrived: deque[Sequence] = deque()
        self._cancelled: list[int] = []
        self._something = threading.Event()

    def put(self, sequence: Sequence) -> None:
        with self._lock:
            self._arrived.append(sequence)
        self._something.set()

    def cancel(self, key: int) -> None:
        with self._lock:
            self._cancelled.append(key)
        self._something.set()

    def wake(self) -> None:
        """The loop looks again."""
        self._something.set()

    def take(self, wait: bool) -> tuple[list[Sequence], list[int]]:
        """What came, and the keys of what is to end."""
        if wait:
            self._something.wait()
        self._something.clear()
        with self._lock:
            arrived, cancelled = [*self._arrived], self._cancelled
            self._arrived.clear()
            self._cancelled = []
        return arrived, cancelled
