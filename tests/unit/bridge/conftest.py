"""Fixtures: a server with tools made for tests, and bridges in front of it."""

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from narthex.settings import Address
from narthex_bridge.config.bridge import BridgeConfig

from tests.unit.bridge.redis_server import RedisServer
from tests.unit.bridge.running_bridge import RunningBridge, process, running
from tests.unit.bridge.tool_server import ToolServer, serving

# The same examples in every run, however slow the machine; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture
async def tools() -> AsyncIterator[ToolServer]:
    async with serving() as service:
        yield service


@pytest.fixture
def bridge_process(tools: ToolServer) -> Callable[..., Any]:
    return lambda *arguments: process("--server", tools.address, *arguments)


@pytest.fixture
def config(tools: ToolServer) -> BridgeConfig:
    return BridgeConfig(http=Address("127.0.0.1", 0), server=Address.parse(tools.address), shutdown_grace=1.0)


@pytest.fixture
def start_bridge(config: BridgeConfig) -> Callable[..., Any]:
    return lambda **changes: running(replace(config, **changes))


@pytest.fixture
async def bridge(config: BridgeConfig) -> AsyncIterator[RunningBridge]:
    async with running(config) as started:
        yield started


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    await server.start()
    yield server
    await server.stop()
