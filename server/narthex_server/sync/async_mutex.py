"""Locks for one task at a time of an event loop."""

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from types import TracebackType
from typing import TypeAlias

from narthex_server.sync.meter import Joined

AsyncMutex: TypeAlias = AbstractAsyncContextManager[object]
"""Held within an `async with`; a task that has it and asks for it again waits for itself."""


class OwnAsyncMutex:
    """An AsyncMutex in the order in which tasks asked.

    Whoever leaves hands it to the next one, so that nobody comes in between. A task that is cancelled when it has just
    been handed it hands it on.
    """

    __slots__ = ("__weakref__", "_counts", "_free", "_waiting")

    def __init__(self, meter: Joined) -> None:
        self._free = True
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._counts = meter.join(self)

    async def __aenter__(self) -> None:
        if self._free:  # then nobody waits
            self._free = False
        else:
            await self._turn()
        self._counts.took()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Gives it back."""
        self._counts.left()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free = True

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        began = perf_counter()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.release()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        finally:
            self._counts.waited(perf_counter() - began)
