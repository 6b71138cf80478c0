"""Messages on their way to one client."""

import asyncio
from typing import Generic, TypeVar

Item = TypeVar("Item")

LAG = 16


class Backlog(Generic[Item]):
    """A bounded queue with one reader, which takes all that waits at once: when it lags, messages share a write."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._items: list[Item] = []
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None  # made when somebody waits for it: thousands of streams never do
        self.closed = False

    @property
    def empty(self) -> bool:
        return not self._items

    @property
    def lagging(self) -> bool:
        """Whether the reader is so far behind that what comes should be put together."""
        return len(self._items) >= LAG

    async def put(self, message: Item) -> None:
        """Adds a message; waits while the reader lags too far behind."""
        while self._full and not self.closed:
            if self._room is None:
                self._room = asyncio.Event()
            self._room.clear()
            await self._room.wait()
        self.offer(message)

    def offer(self, message: Item) -> bool:
        """Adds a message at once; False where there is no room or no reader any more."""
        if self.closed or len(self._items) >= 2 * self._limit:
            return False
        self._items.append(message)
        self.wake()
        return True

    def close(self) -> None:
        """Ends the stream after what is already in it."""
        self.closed = True
        self._make_room()
        self.wake()

    async def take(self, patience_s: float) -> list[Item] | None:
        """All that waits; empty after `patience_s` seconds of silence, None at the end."""
        await self.wait(patience_s)
        if not self._items:
            return None if self.closed else []
        taken = self.peek()
        self.drop(len(taken))
        return taken

    async def wait(self, patience_s: float) -> None:
        """Until there is something, or the end, or `patience_s` seconds have passed, or somebody wakes the reader."""
        if self._items or self.closed:
            return
        loop = asyncio.get_running_loop()
        reader = self._reader = loop.create_future()
        timer = loop.call_later(patience_s, _let_go, reader)
        try:
            await reader
        finally:
            timer.cancel()
            if self._reader is reader:  # another one may wait already for whom this one was woken
                self._reader = None

    def peek(self) -> list[Item]:
        """All that waits, which stays."""
        return self._items.copy()

    def drop(self, count: int) -> None:
        """Takes the first `count` away."""
        del self._items[:count]
        self._make_room()

    def wake(self) -> None:
        """Lets a reader that waits return."""
        if self._reader is not None:
            _let_go(self._reader)

    @property
    def _full(self) -> bool:
        return len(self._items) >= self._limit

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()


def _let_go(reader: asyncio.Future[None]) -> None:
    if not reader.done():
        reader.set_result(None)


MOST_BYTES = 4 * 1024 * 1024
"""With so many waiting in an outbox, whoever adds more waits too."""


class Outbox(Backlog[bytes]):
    """Messages as bytes, bounded in their size too: a single one can be as large as the server may send."""

    def __init__(self, limit: int = 256) -> None:
        super().__init__(limit)
        self._size = 0

    def offer(self, message: bytes) -> bool:
        if not super().offer(message):
            return False
        self._size += len(message)
        return True

    def drop(self, count: int) -> None:
        self._size -= sum(map(len, self._items[:count]))
        super().drop(count)

    @property
    def _full(self) -> bool:
        return super()._full or self._size >= MOST_BYTES
