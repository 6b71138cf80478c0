"""What one caller sees, for all who look."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context

logger = logging.getLogger(__name__)

PERIOD_S = 1.0


class Board:
    """Takes a snapshot each second, from its making until `close`; those who look have the latest, and miss what was
    between where they lag."""

    def __init__(self, take: Callable[[], Awaitable[bytes]]) -> None:
        self._take = take
        self._news = asyncio.Event()
        self._latest = b""
        self._version = 0
        self.viewers = 0
        self.closed = False
        # Of nobody's request: neither its trace nor the tokens that it brought are for what others see too.
        self._task = asyncio.create_task(self._run(), context=Context())

    async def after(self, version: int) -> tuple[int, bytes] | None:
        """The latest snapshot and its version, as soon as that is another one than given; None at the end."""
        while self._version == version and not self.closed:
            await self._news.wait()
        return None if self.closed else (self._version, self._latest)

    def close(self) -> None:
        self.closed = True
        self._task.cancel()
        self._tell()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                begun = loop.time()
                taken = await self._take()
                if taken != self._latest:
                    self._latest, self._version = taken, self._version + 1
                    self._tell()
                await asyncio.sleep(begun + PERIOD_S - loop.time())
        except Exception:
            logger.exception("the status page has nothing to show")
            self.close()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
