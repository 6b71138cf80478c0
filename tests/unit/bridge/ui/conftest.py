"""A server with a lot, a bridge in front of it, and pages that look at it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from narthex.settings import Address
from narthex_bridge.config.bridge import BridgeConfig

from tests.unit.bridge.ui.lot_server import LotServer, serving


@pytest.fixture
async def lot() -> AsyncIterator[LotServer]:
    async with serving() as service:
        yield service


@pytest.fixture
async def lotless() -> AsyncIterator[LotServer]:
    """A server of before there was a lot."""
    async with serving(lot=False) as service:
        yield service


@pytest.fixture
def config(lot: LotServer) -> BridgeConfig:
    return BridgeConfig(http=Address("127.0.0.1", 0), server=Address.parse(lot.address), shutdown_grace=1.0)


class Watcher:
    """Reads the snapshots of an open page."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> Any:
        """The next event's data."""
        return (await self.event())["status"]

    async def event(self) -> Any:
        async with asyncio.timeout(10):
            async for line in self._lines:
                if line.startswith("data: "):
                    return json.loads(line.removeprefix("data: "))
        raise EOFError

    async def until(self, met: Callable[[Any], bool]) -> Any:
        """The first snapshot that is as wanted."""
        while not met(found := await self.next()):
            pass
        return found


@pytest.fixture
def watching() -> Any:
    @asynccontextmanager
    async def open(bridge: Any, **headers: str) -> AsyncIterator[Watcher]:
        async with bridge.http.stream("GET", "/ui/status", headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield Watcher(answer)

    return open
