"""What forwarding adds: calls of one MCP server over stdio, directly by the official client and through the catalog.

    python bench/forwarding.py [--calls N] [--concurrency N]

Both ways have a session of their own with the same server program; calls and rounds are interleaved, so that both meet
the same machine. Prints latencies in milliseconds and calls a second.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from statistics import median, quantiles
from time import perf_counter

import mcp_types as types
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.tool import CallContext
from narthex_server.tools.upstream.source import Process, ServerSource
from narthex_server.tools.upstream.supervisor import Upstream

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
ROUNDS = 7
Call = Callable[[], Awaitable[object]]


async def serve() -> None:
    """The upstream: one tool that answers with its text, as fast as the library can."""

    async def list_tools(context: object, params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="echo", input_schema=SCHEMA)])

    async def call_tool(context: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        text = (params.arguments or {})["text"]
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    server = Server("echo", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def timed(call: Call) -> float:
    began = perf_counter()
    await call()
    return (perf_counter() - began) * 1000


async def rate(call: Call, calls: int, concurrency: int) -> float:
    """Calls a second with so many at a time."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    began = perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return calls / (perf_counter() - began)


def show(name: str, times: list[float], fast: float) -> None:
    cuts = quantiles(times, n=100)
    print(f"{name:10} p50 {cuts[49]:7.3f} ms   p99 {cuts[98]:7.3f} ms   {fast:7.0f} calls/s")


async def measure(calls: int, concurrency: int) -> None:
    command, arguments = sys.executable, [__file__, "--serve"]
    catalog = Catalog(servers=[Upstream(ServerSource("echo", Process(command, tuple(arguments))))])
    await catalog.start(20)
    context = CallContext(LOCAL, "bench")

    async def forwarded() -> None:
        async for _ in catalog.call("echo__echo", b'{"text":"hello"}', context):
            pass

    try:
        async with Client(StdioServerParameters(command=command, args=arguments), cache=None) as client:

            async def direct() -> None:
                await client.session.call_tool("echo", {"text": "hello"})

            await client.list_tools()
            ways: dict[str, Call] = {"direct": direct, "forwarded": forwarded}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(calls):
                for name, call in ways.items():
                    times[name].append(await timed(call))
            rounds: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, call in ways.items():
                    rounds[name].append(await rate(call, calls // ROUNDS, concurrency))
            rates = {name: median(found) for name, found in rounds.items()}
    finally:
        await catalog.stop()
    for name in ways:
        show(name, times[name][calls // 10 :], rates[name])
    added = median(times["forwarded"]) - median(times["direct"])
    print(f"added      p50 {added:7.3f} ms   rate x{rates['forwarded'] / rates['direct']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.run(serve() if options.serve else measure(options.calls, options.concurrency))


if __name__ == "__main__":
    main()
