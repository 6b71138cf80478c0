import asyncio
import ipaddress
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from narthex_server.config.server import ServerConfig
from narthex_server.forwarding import upstream
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.reach import Reach
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, ToolEvent
from narthex_server.tools.upstream.forms import parse_sources

from tests.e2e.authority import Authority

SERVERS = Path(__file__).parent / "servers"


class Gateway:
    """A catalog of real upstreams, and short ways to ask it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def names(self) -> list[str]:
        return [tool.name for tool in self.catalog.list(LOCAL)]

    def status(self, name: str):
        return next(s for s in self.catalog.servers() if s.name == name)

    async def call(self, name: str, arguments: bytes = b"{}", seconds: float | None = None) -> list[ToolEvent]:
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        return [event async for event in self.catalog.call(name, arguments, CallContext(LOCAL, "test", deadline))]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for the catalog to change until the condition holds."""
        async with asyncio.timeout(20):
            while not condition():
                await self.catalog.wait_changed(LOCAL, self.catalog.versions(LOCAL).catalog)

    async def until_ready(self, name: str) -> None:
        await self.until(lambda: self.status(name).state is ServerState.READY)

    async def until_subscribed(self, name: str, uris: str) -> None:
        """Waits until library.py says that these, and no others, are subscribed."""
        said = None
        async with asyncio.timeout(20):
            while said != uris:
                said = json.loads((await self.call(f"{name}__subscriptions"))[-1].content)[0]["text"]


@pytest.fixture
def script() -> Callable[..., dict[str, Any]]:
    """The `mcpServers` entry that runs one of the servers here."""

    def entry(name: str, *args: str) -> dict[str, Any]:
        return {"command": sys.executable, "args": [str(SERVERS / f"{name}.py"), *args]}

    return entry


@pytest.fixture
def gateway():
    """`async with gateway({name: entry}, sampler, **fields of ServerSource) as running`."""

    @asynccontextmanager
    async def run(servers: dict[str, Any], sampler: Any = None, **changes: Any) -> AsyncIterator[Gateway]:
        document = servers if "servers" in servers else {"mcpServers": servers}
        sources = [replace(source, **changes) for source in parse_sources(document)]
        catalog = Catalog(servers=[upstream(source, ServerConfig(), sampler, Reach()) for source in sources])
        try:
            await catalog.start(20)
            yield Gateway(catalog)
        finally:
            await catalog.stop()

    return run


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def http_server(free_port: int):
    """`async with http_server(kind) as url`: rich.py, or another script, as a process of its own behind a URL."""

    @asynccontextmanager
    async def run(kind: str = "http", *command: str) -> AsyncIterator[str]:
        script, *arguments = command or ("rich", kind)
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SERVERS / f"{script}.py"), *arguments, str(free_port), stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(20):
                while b"running on" not in await process.stderr.readline():
                    assert process.returncode is None
            drain = asyncio.create_task(process.stderr.read())
            yield f"http://127.0.0.1:{free_port}/{'sse' if kind == 'sse' else 'mcp'}"
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await drain

    return run


@pytest.fixture
def authority(tmp_path) -> Authority:
    """Certificates for this machine (`server`, and `elsewhere` for another name) and a client."""
    made = Authority(tmp_path)
    made.issue("server", x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost"))
    made.issue("elsewhere", x509.DNSName("inner.example"))
    made.issue("client")
    return made


@pytest.fixture
def gone() -> Callable[[int], Awaitable[None]]:
    """Waits until a process is gone."""

    async def wait(pid: int) -> None:
        async with asyncio.timeout(10):
            while _alive(pid):  # noqa: ASYNC110 (not our child: nothing to wait on)
                await asyncio.sleep(0.01)

    return wait


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
