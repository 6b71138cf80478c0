"""What forwarding adds, and how it compares with other proxies: calls of one MCP server over stdio.

    python -m bench forwarding [--calls 500] [--concurrency 16] [--rounds 5] [--cache FOLDER] [--json FILE]

First in this process: the official client beside the catalog. Then over HTTP: `narthex server` with the bridge in
front, FastMCP's proxy and mcp-proxy, which are installed into environments of their own. Every way has a server of its
own of the same program, and they take turns, so that all meet the same machine.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.tool import CallContext
from narthex_server.tools.upstream.source import Process as ProcessSource
from narthex_server.tools.upstream.source import ServerSource
from narthex_server.tools.upstream.supervisor import Upstream

from bench.peers.catalogue import DEFAULT
from bench.peers.environment import Venv
from bench.servers.gateway import Process, free_address, http_rate, measured, process, rate

SERVERS = Path(__file__).parent / "servers"
COMMAND = (sys.executable, str(SERVERS / "echo.py"))
NARTHEX = "narthex"
Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy over HTTP: where it listens, what it calls the tool, and its processes."""

    address: str
    tool: str
    processes: Mapping[str, Process]


async def inside(calls: int, rounds: int) -> dict[str, Any]:
    """The official client directly, and the catalog, one call after the other and 16 at a time."""
    catalog = Catalog(servers=[Upstream(ServerSource("echo", ProcessSource(COMMAND[0], COMMAND[1:])))])
    await catalog.start(20)
    context = CallContext(LOCAL, "bench")

    async def forwarded() -> None:
        async for _ in catalog.call("echo__echo", b'{"text":"hello"}', context):
            pass

    try:
        async with Client(StdioServerParameters(command=COMMAND[0], args=list(COMMAND[1:])), cache=None) as client:

            async def direct() -> None:
                await client.session.call_tool("echo", {"text": "hello"})

            await client.list_tools()
            ways: dict[str, Call] = {"official client": direct, "catalog": forwarded}
            found = {
                f"{name}, {callers} at a time": lambda call=call, n=callers: measured({}, rate([call] * n, calls))
                for callers in (1, 16)
                for name, call in ways.items()
            }
            return await in_turns(found, rounds)
    finally:
        await catalog.stop()


async def outside(calls: int, callers: int, rounds: int, cache: Path) -> dict[str, Any]:
    """The proxies over HTTP, each with so many sessions."""
    async with contextlib.AsyncExitStack() as stack:
        proxies = {
            NARTHEX: await narthex(stack),
            "FastMCP": await fastmcp(stack, cache),
            "mcp-proxy": await mcp_proxy(stack, cache),
        }

        def way(proxy: Proxy) -> Awaitable[dict[str, Any]]:
            return http_rate(proxy.address, "/mcp", callers, calls, proxy.processes, proxy.tool)

        ways = {name: lambda proxy=proxy: way(proxy) for name, proxy in proxies.items()}
        found = await in_turns(ways, rounds)
    ours = found[NARTHEX]["calls_per_second"]
    for figures in found.values():
        figures["narthex is times faster"] = round(ours / figures["calls_per_second"], 2)
    return {f"{name}, {callers} sessions": figures for name, figures in found.items()}


async def narthex(stack: contextlib.AsyncExitStack) -> Proxy:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    config = folder / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"echo": {"command": COMMAND[0], "args": COMMAND[1:]}}}))
    anywhere = "127.0.0.1:0"
    server = await stack.enter_async_context(
        process("-m", "narthex_server.main", "--grpc", anywhere, "--metrics", anywhere, "--mcp-config", config)
    )
    bridge = await stack.enter_async_context(
        process("-m", "narthex_bridge.main", "--http", anywhere, "--server", server.address)
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


async def in_turns(ways: Mapping[str, Callable[[], Awaitable[dict[str, Any]]]], rounds: int) -> dict[str, Any]:
    """Of each way the round with the median rate."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(await way())
    order = {name: sorted(every, key=lambda one: one["calls_per_second"]) for name, every in found.items()}
    return {name: every[len(every) // 2] for name, every in order.items()}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    report = await inside(options.calls, options.rounds)
    return report | await outside(options.calls, options.concurrency, options.rounds, options.cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500, help="of each round")
    parser.add_argument("--concurrency", type=int, default=16, help="sessions over HTTP")
    parser.add_argument("--rounds", type=int, default=5)
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
