"""Messages on their way to one client."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Backlog(Generic[Item]):
    """A bounded queue with one reader, which takes all that waits at once: when it lags, messages share a write."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._items: deque[Item] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.closed = False

    @property
    def empty(self) -> bool:
        return not self._items

    async def put(self, message: Item) -> None:
        """Adds a message; waits while the reader lags too far behind."""
        while len(self._items) >= self._limit and not self.closed:
            self._room.clear()
            await self._room.wait()
        self.offer(message)

    def offer(self, message: Item) -> bool:
        """Adds a message at once; False where there is no room or no reader any more."""
        if self.closed or len(self._items) >= 2 * self._limit:
            return False
        self._items.append(message)
        self._wake()
        return True

    def close(self) -> None:
        """Ends the stream after what is already in it."""
        self.closed = True
        self._room.set()
        self._wake()

    async def take(self, patience_s: float) -> list[Item] | None:
        """All that waits; empty after `patience_s` seconds of silence, None at the end."""
        if not self._items and not self.closed:
            loop = asyncio.get_running_loop()
            self._reader = loop.create_future()
            timer = loop.call_later(patience_s, self._wake)
            try:
                await self._reader
            finally:
                timer.cancel()
                self._reader = None
        if not self._items:
            return None if self.closed else []
        taken = list(self._items)
        self._items.clear()
        self._room.set()
        return taken

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Outbox(Backlog[bytes]):
    """Messages as bytes."""
