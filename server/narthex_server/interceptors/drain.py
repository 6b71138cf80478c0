"""Which calls a shutdown waits for."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from grpc.aio import ServicerContext

from narthex_server.interceptors.around import AroundInterceptor, Traffic

ENDLESS = (
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.",
    "/narthex.v1.ToolService/Watch",
    "/narthex.v1.LotService/Watch",
    "/narthex.v1.LotService/Fetch",
)


class DrainInterceptor(AroundInterceptor, AbstractAsyncContextManager[None]):
    """Knows when no work is in flight; streams that only watch end with their caller and nobody waits for them."""

    def __init__(self) -> None:
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Returns when no call works."""
        await self._idle.wait()

    def around(
        self, method: str, context: ServicerContext[Any, Any], traffic: Traffic
    ) -> AbstractAsyncContextManager[None]:
        return nullcontext() if method.startswith(ENDLESS) else self

    async def __aenter__(self) -> None:
        self._working += 1
        self._idle.clear()

    async def __aexit__(self, *_: object) -> None:
        self._working -= 1
        if not self._working:
            self._idle.set()
