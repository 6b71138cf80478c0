"""One open page."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

from narthex_bridge.http.messages import Tally
from narthex_bridge.protocol import sse
from narthex_bridge.ui.board import Board


class View:
    """The changes of a board as server-sent events, for `lifetime_s`: then the page comes again, and shows again who it
    is for."""

    def __init__(self, board: Board, keepalive_s: float, lifetime_s: float, over: Callable[[], None]) -> None:
        self._board = board
        self._keepalive_s = keepalive_s
        self._until = time.monotonic() + lifetime_s
        self._over: Callable[[], None] | None = over
        self._seen = 0
        self.tally = Tally()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        left = self._until - time.monotonic()
        if left <= 0:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(min(self._keepalive_s, left)):
                news = await self._board.after(self._seen)
        except TimeoutError:
            return sse.KEEPALIVE
        if news is None:
            raise StopAsyncIteration
        self._seen, snapshot = news
        self.tally.events += 1
        return sse.event(b"status", b'{"time":%.3f,"status":%b}' % (time.time(), snapshot))

    async def aclose(self) -> None:
        if self._over is not None:
            over, self._over = self._over, None
            over()
