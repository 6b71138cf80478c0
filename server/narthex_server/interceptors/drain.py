"""Which calls a shutdown waits for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from grpc.aio import ServicerContext

from narthex_server.interceptors.around import AroundInterceptor, Traffic

ENDLESS = ("/grpc.health.v1.Health/Watch", "/grpc.reflection.", "/narthex.v1.ToolService/Watch")


class DrainInterceptor(AroundInterceptor):
    """Knows when no work is in flight; streams that only watch end with their caller and nobody waits for them."""

    def __init__(self) -> None:
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Returns when no call works."""
        await self._idle.wait()

    @asynccontextmanager
    async def around(self, method: str, context: ServicerContext[Any, Any], traffic: Traffic) -> AsyncIterator[None]:
        if method.startswith(ENDLESS):
            yield
            return
        self._working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()
