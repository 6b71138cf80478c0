"""Real bridges on real ports, and what clients send them."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from narthex.settings import Address
from narthex_bridge.app import Bridge
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.main import bind, hypercorn_config
from narthex_bridge.transport.host import serve

from tests.unit.bridge.event_reader import DEADLINE_S, EventReader


def stateless(method: str, params: Any = None, id: Any = 1, meta: Any = None) -> dict[str, Any]:
    given = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        **(meta or {}),
    }
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {**(params or {}), "_meta": given}}


def mirror(method: str, params: Any, headers: dict[str, str]) -> dict[str, str]:
    """The headers that say what the body says, and those given."""
    name = (params or {}).get("uri" if method == "resources/read" else "name")
    named = {"mcp-name": name} if isinstance(name, str) and method != "completion/complete" else {}
    return {"mcp-protocol-version": "2026-07-28", "mcp-method": method, **named, **headers}


@dataclass
class RunningBridge:
    """A bridge on a real port: its URL, a client for it, and the way to stop it as SIGTERM does."""

    url: str
    http: httpx.AsyncClient
    stop: Callable[[], Awaitable[None]]
    bridge: Bridge | None
    """Where it runs in this process."""

    async def rpc(self, method: str, params: Any = None, *, id: Any = 1, **headers: str) -> httpx.Response:
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
        return await self.http.post("/mcp", json=message, headers=headers)

    def stateless_request(
        self, method: str, params: Any = None, *, id: Any = 1, meta: Any = None, **headers: str
    ) -> httpx.Request:
        """A request of the version without sessions, with all that belongs to it unless it is given."""
        body = stateless(method, params, id, meta)
        return self.http.build_request("POST", "/mcp", json=body, headers=mirror(method, params, headers))

    async def stateless(self, method: str, params: Any = None, **options: Any) -> httpx.Response:
        return await self.http.send(self.stateless_request(method, params, **options))

    async def session(self, version: str = "2025-11-25", *, can: Any = None, **headers: str) -> dict[str, str]:
        """Opens a session and returns the headers that its requests need."""
        params = {"protocolVersion": version, "capabilities": can or {}, "clientInfo": {"name": "test", "version": "1"}}
        answer = await self.rpc("initialize", params, id=0, **headers)
        assert answer.status_code == 200, answer.text
        return {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": version, **headers}

    @asynccontextmanager
    async def calling(self, session: dict[str, str], tool: str, *, id: Any = 1) -> AsyncIterator[EventReader]:
        """The streamed answer of a tool call with progress; leaving it cuts the connection."""
        params = {"name": tool, "arguments": {}, "_meta": {"progressToken": id}}
        message = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
        async with self.http.stream("POST", "/mcp", json=message, headers=session) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream"), await answer.aread()
            yield EventReader(answer)

    @asynccontextmanager
    async def getting(self, session: dict[str, str], last: str | None = None) -> AsyncIterator[EventReader]:
        """The session's own stream, or any stream from an event on."""
        headers = {**session, "accept": "text/event-stream"} | ({} if last is None else {"last-event-id": last})
        async with self.http.stream("GET", "/mcp", headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield EventReader(answer)

    async def metric(self, name: str) -> float:
        """A metric of the bridge without labels."""
        text = (await self.http.get("/metrics")).text
        return float(text.partition(f"\nnarthex_bridge_{name} ")[2].partition("\n")[0])


@asynccontextmanager
async def running(config: BridgeConfig) -> AsyncIterator[RunningBridge]:
    bridge, listener = Bridge(config), bind(config.http)
    stop, ready, drained = asyncio.Event(), asyncio.Event(), []
    url = f"http://{Address(*listener.getsockname()[:2])}"

    async def until_stopped() -> None:
        ready.set()
        await stop.wait()
        drained.append(asyncio.create_task(bridge.drain()))

    serving = asyncio.create_task(serve(bridge.app, hypercorn_config(config, listener), shutdown_trigger=until_stopped))

    async def stopped() -> None:
        stop.set()
        await serving
        await drained[0]

    accept = {"accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(base_url=url, headers=accept, timeout=DEADLINE_S) as http:
        await ready.wait()
        yield RunningBridge(url, http, stopped, bridge)
    await stopped()


@dataclass
class BridgeProcess(RunningBridge):
    """A bridge as a process, whose `stop` kills it."""

    child: asyncio.subprocess.Process

    def terminate(self) -> None:
        self.child.terminate()

    async def ended(self) -> None:
        await asyncio.wait_for(self.child.communicate(), DEADLINE_S)


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[BridgeProcess]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "narthex_bridge.main", "--http", "127.0.0.1:0", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None

    async def killed() -> None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        if child.returncode is None:
            await child.communicate()

    try:
        line = (await asyncio.wait_for(child.stdout.readline(), DEADLINE_S)).decode().strip()
        url = f"http://{line.partition('http=')[2]}"
        accept = {"accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(base_url=url, headers=accept, timeout=DEADLINE_S) as http:
            yield BridgeProcess(url, http, killed, None, child)
    finally:
        await killed()
