"""What forwarding adds, and how it compares with other proxies: calls of one MCP server over stdio.

    python -m bench forwarding [--calls 2000] [--concurrency 16] [--rounds 5] [--only WORD …] [--json FILE]

The same call of the same program every way: lines written to it and read from it by hand, which is its own ceiling;
the official client; the catalog in this process; `narthex server` by gRPC, a stream for each call and one for all; over
HTTP the bridge in front of it, FastMCP's proxy and mcp-proxy, which are installed into environments of their own. Every
way has a server of its own, and they take turns, so that all meet the same machine. "added" is to the call by hand,
where one call is under way at a time. Last, what a native tool costs without upstreams and with them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from narthex.v1 import tool_pb2, tool_pb2_grpc
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult
from narthex_server.tools.upstream.source import Process as ProcessSource
from narthex_server.tools.upstream.source import ServerSource
from narthex_server.tools.upstream.supervisor import Upstream

from bench.peers.catalogue import DEFAULT
from bench.peers.environment import Venv
from bench.servers.gateway import Process, free_address, http_rate, measured, process, rate
from bench.servers.pipe import Pipe
from bench.servers.relayed import relayed

SERVERS = Path(__file__).parent / "servers"
COMMAND = (sys.executable, str(SERVERS / "echo.py"))
NARTHEX, BY_HAND = "narthex", "by hand"
ANYWHERE = "127.0.0.1:0"
ARGUMENTS = b'{"text":"hello"}'
CONTEXT = CallContext(LOCAL, "bench")
Call = Callable[[], Awaitable[object]]
Way = Callable[[int], Awaitable[dict[str, Any]]]
"""So many callers at once."""
Ways = dict[str, Way]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy over HTTP: where it listens, what it calls the tool, and its processes."""

    address: str
    tool: str
    processes: Mapping[str, Process]


async def direct(stack: contextlib.AsyncExitStack, calls: int) -> Ways:
    """The program by itself, and through the official client."""
    pipe = stack.enter_context(Pipe(COMMAND))
    server = StdioServerParameters(command=COMMAND[0], args=list(COMMAND[1:]))
    client = await stack.enter_async_context(Client(server, cache=None))
    await client.list_tools()

    async def raw(callers: int) -> dict[str, Any]:
        return await asyncio.to_thread(pipe.rate, calls, callers)

    async def official() -> None:
        await client.session.call_tool("echo", {"text": "hello"})

    return {BY_HAND: raw, "official client": lambda callers: measured({}, rate([official] * callers, calls))}


async def inside(stack: contextlib.AsyncExitStack, calls: int) -> Ways:
    """The catalog in this process."""
    catalog = Catalog(servers=[Upstream(ServerSource("echo", ProcessSource(COMMAND[0], COMMAND[1:])))])
    await catalog.start(20)
    stack.push_async_callback(catalog.stop)
    call = partial(called, catalog, "echo__echo")
    return {"catalog": lambda callers: measured({}, rate([call] * callers, calls))}


async def by_grpc(stack: contextlib.AsyncExitStack, calls: int) -> Ways:
    """`narthex server`, a stream for each call and one stream for all."""
    server = await narthex_server(stack)
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
    stub = tool_pb2_grpc.ToolServiceStub(channel)
    request = tool_pb2.CallToolRequest(name="echo__echo", arguments=ARGUMENTS)
    relay = await stack.enter_async_context(relayed(channel))

    async def single() -> None:
        async for _ in stub.CallTool(request):
            pass

    def way(call: Call) -> Way:
        return lambda callers: measured({"server and upstream": server}, rate([call] * callers, calls))

    return {"gRPC CallTool": way(single), "gRPC RelayCalls": way(lambda: relay.call(request))}


async def over_http(stack: contextlib.AsyncExitStack, calls: int, cache: Path) -> Ways:
    """The proxies over HTTP, with a session for each caller."""
    proxies = {
        NARTHEX: await narthex(stack),
        "FastMCP": await fastmcp(stack, cache),
        "mcp-proxy": await mcp_proxy(stack, cache),
    }

    def way(proxy: Proxy) -> Way:
        return lambda callers: http_rate(proxy.address, "/mcp", callers, calls, proxy.processes, proxy.tool)

    return {f"HTTP, {name}": way(proxy) for name, proxy in proxies.items()}


class Native:
    """A tool of our own that answers at once."""

    tool = Tool("native", "", "", b'{"type":"object"}')

    async def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
        yield ToolResult(b"[]")


async def native(calls: int, rounds: int) -> dict[str, Any]:
    """The CPU time of a tool of our own, without upstreams and with twelve of them."""
    async with contextlib.AsyncExitStack() as stack:
        ways: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {}
        for count in (0, 12):
            sources = [ServerSource(f"echo{n}", ProcessSource(COMMAND[0], COMMAND[1:])) for n in range(count)]
            catalog = Catalog([Native()], [Upstream(source) for source in sources])
            await catalog.start(20)
            stack.push_async_callback(catalog.stop)
            ways[f"native tool beside {count} upstreams"] = partial(cost, partial(called, catalog, "native"), calls)
        return await in_turns(ways, rounds, key=lambda one: -one["cpu_us"])


async def cost(call: Call, calls: int) -> dict[str, Any]:
    """The CPU time of a call in this process."""
    before = time.process_time()
    for _ in range(calls):
        await call()
    return {"cpu_us": round((time.process_time() - before) / calls * 1e6, 2)}


async def called(catalog: Catalog, tool: str) -> None:
    async for _ in catalog.call(tool, ARGUMENTS, CONTEXT):
        pass


async def narthex_server(stack: contextlib.AsyncExitStack) -> Process:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    config = folder / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"echo": {"command": COMMAND[0], "args": COMMAND[1:]}}}))
    return await stack.enter_async_context(
        process("-m", "narthex_server.main", "--grpc", ANYWHERE, "--metrics", ANYWHERE, "--mcp-config", config)
    )


async def narthex(stack: contextlib.AsyncExitStack) -> Proxy:
    server = await narthex_server(stack)
    bridge = await stack.enter_async_context(
        process("-m", "narthex_bridge.main", "--http", ANYWHERE, "--server", server.address)
    )
    return Proxy(bridge.address, "echo__echo", {"server and upstream": server, "bridge": bridge})


async def fastmcp(stack: contextlib.AsyncExitStack, cache: Path) -> Proxy:
    environment, address = Venv(cache / "fastmcp", ("fastmcp==4.1.7",)), free_address()
    environment.install()
    command = (SERVERS / "fastmcp_proxy.py", address.rpartition(":")[2], *COMMAND)
    started = await stack.enter_async_context(process(*command, python=environment.python, address=address))
    return Proxy(address, "echo", {"proxy and upstream": started})


async def mcp_proxy(stack: contextlib.AsyncExitStack, cache: Path) -> Proxy:
    environment, address = Venv(cache / "mcp-proxy", ("mcp-proxy==0.13.0",)), free_address()
    environment.install()
    command = ("-m", "mcp_proxy", "--port", address.rpartition(":")[2], "--log-level", "ERROR", "--", *COMMAND)
    started = await stack.enter_async_context(process(*command, python=environment.python, address=address))
    return Proxy(address, "echo", {"proxy and upstream": started})


async def in_turns(
    ways: Mapping[str, Callable[[], Awaitable[dict[str, Any]]]],
    rounds: int,
    key: Callable[[dict[str, Any]], float] = lambda one: one["calls_per_second"],
) -> dict[str, Any]:
    """Of each way the round that is the median by `key`."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(await way())
    order = {name: sorted(every, key=key) for name, every in found.items()}
    return {name: every[len(every) // 2] for name, every in order.items()}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    async with contextlib.AsyncExitStack() as stack:
        ways = await direct(stack, options.calls) | await inside(stack, options.calls)
        ways |= await over_http(stack, options.calls, options.cache)
        ways |= await by_grpc(stack, options.calls)  # last: a process with channels of gRPC's does not fork well
        kept = {name: way for name, way in ways.items() if name == BY_HAND or any(one in name for one in options.only)}
        alone = await in_turns({name: partial(way, 1) for name, way in kept.items()}, options.rounds)
        together = await in_turns(
            {name: partial(way, options.concurrency) for name, way in kept.items()}, options.rounds
        )
    for figures in alone.values():
        figures |= {f"{q}_added_ms": round(figures[f"{q}_ms"] - alone[BY_HAND][f"{q}_ms"], 3) for q in ("p50", "p99")}
    ours = together.get(f"HTTP, {NARTHEX}")
    for name, figures in together.items():
        if ours is not None and name.startswith("HTTP"):
            figures["narthex is times faster"] = round(ours["calls_per_second"] / figures["calls_per_second"], 2)
    report = {f"{name}, 1 at a time": figures for name, figures in alone.items()}
    report |= {f"{name}, {options.concurrency} at a time": figures for name, figures in together.items()}
    if "native" in options.only or options.only == [""]:
        report |= await native(options.calls, options.rounds)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="of each round")
    parser.add_argument("--concurrency", type=int, default=16, help="calls under way at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], help="ways whose names hold one of these; native")
    parser.add_argument("--cache", type=Path, default=DEFAULT, help="where the peers are installed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = uvloop.run(measure(options))
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name, figures in report.items():
        print(f"{name}: {figures}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
