"""What the bridge adds to direct gRPC, and how its calls a second compare with the MCP SDK's own server.

    python -m bench bridge [--calls 1500] [--rounds 5] [--idle 1000] [--json FILE]

The tool server (narthex's own service, catalog and interceptors over two native tools), the bridge and the peer are
processes of their own; this one is the client, whose own cost is in every figure. Ways take turns, and beside each rate
stands the CPU time that each process spent on a call, which other work on the machine moves less. Paced streams carry
the moment each event was made, so their figures are one-way times on one clock.
"""

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import uvloop
from narthex.v1 import tool_pb2, tool_pb2_grpc

from bench.servers.gateway import Connection, Process, free_address, http_rate, measured, process, rate, rpc, spread

ECHO = [{"type": "text", "text": "hello"}]
SESSIONS = (1, 16, 100)
PACE_S = 0.05
PACED_S = 2
STREAMS = {  # between two arrivals, in seconds
    "16 streams at once": (16, 0.0),
    "100 streams, 100 arrivals/s": (100, 0.01),
    "100 streams within 50 ms": (100, 0.0005),
}


async def serve_tools() -> None:
    """`echo`, and `paced`: 20 events a second for `seconds`, each saying when it was made."""
    from narthex_server.config.server import ServerConfig
    from narthex_server.interceptors.around import Stack
    from narthex_server.interceptors.drain import DrainInterceptor
    from narthex_server.listening import grpc_server, interceptors, key_ring, relaying
    from narthex_server.metrics.registry import new_registry
    from narthex_server.metrics.tools import ToolMetrics
    from narthex_server.services.registration import register
    from narthex_server.services.tool import ToolService
    from narthex_server.tools.catalog import Catalog
    from narthex_server.tools.reach import Reach
    from narthex_server.tools.tool import CallContext, TextDelta, Tool, ToolEvent, ToolResult

    result = ToolResult(json.dumps(ECHO).encode())

    class Echo:
        tool = Tool("echo", "", "", b'{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}')

        async def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
            yield result

    class Paced:
        tool = Tool("paced", "", "", b'{"type":"object","properties":{"seconds":{"type":"number"}}}')

        async def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
            for _ in range(round(json.loads(arguments)["seconds"] / PACE_S)):
                yield TextDelta(str(time.monotonic_ns()))
                await asyncio.sleep(PACE_S)
            yield result

    config, registry = ServerConfig(), new_registry()
    reach = Reach()
    around = interceptors(config, key_ring(config), registry, reach)
    server = grpc_server(config, Stack(DrainInterceptor(), around))
    catalog = Catalog(natives=(Echo(), Paced()), observers=[ToolMetrics(registry)])
    register(server, {"ToolService": ToolService(catalog, relaying(config, around), reach)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def serve_peer() -> None:
    """The MCP SDK's server with the same echo tool, answering JSON as the bridge does."""
    from mcp.server import MCPServer

    server = MCPServer("peer", log_level="ERROR")
    server.add_tool(lambda text: text, name="echo")
    address = free_address()
    print(f"ready http={address}", flush=True)
    server.run("streamable-http", port=int(address.rpartition(":")[2]), json_response=True)


def tool_call(name: str, **arguments: object) -> dict[str, object]:
    return rpc("tools/call", {"name": name, "arguments": arguments, "_meta": {"progressToken": 1}})


TEXT = b'{"text":"hello"}'


async def over_grpc(tools: Any, name: str = "echo", arguments: bytes = b"{}") -> list[tuple[int, int]]:
    """One call; the moments at which its text deltas were made and came."""
    seen = []
    async for event in tools.CallTool(tool_pb2.CallToolRequest(name=name, arguments=arguments)):
        if event.HasField("text_delta"):
            seen.append((int(event.text_delta.text), time.monotonic_ns()))
    return seen


async def over_http(address: str, seconds: float) -> list[tuple[int, int]]:
    """As over_grpc, through a new connection to POST /mcp/stream."""
    seen = []
    async with Connection(address) as connection:
        await connection.send("/mcp/stream", tool_call("paced", seconds=seconds))
        async for chunk in connection.chunks():
            now = time.monotonic_ns()
            seen += [(int(part.split(b'"')[0]), now) for part in chunk.split(b'"message":"')[1:]]
    return seen


async def paced(streams: int, gap_s: float, start: Callable[[], Awaitable[list[tuple[int, int]]]]) -> dict[str, Any]:
    """One-way time per event, and from asking to the first event, of streams started `gap_s` apart."""
    first: list[int] = []

    async def one(number: int) -> list[int]:
        await asyncio.sleep(number * gap_s)
        asked = time.monotonic_ns()
        seen = await start()
        first.append(seen[0][1] - asked)
        return [came - made for made, came in seen[1:]]

    every = await asyncio.gather(*map(one, range(streams)))
    events = [took for one in every for took in one]
    return {"calls": streams * round(PACED_S / PACE_S), "event": spread(events), "first": spread(first)}


async def echoes(
    tools: Any, bridge: str, peer: str, processes: Mapping[str, Process], calls: int, rounds: int
) -> dict[str, Any]:
    """Rates of the echo tool, for each number of sessions: of every way the round with the median rate."""
    report: dict[str, Any] = {}
    for sessions in SESSIONS:
        ways: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "grpc": lambda n=sessions: measured(processes, rate([lambda: over_grpc(tools, arguments=TEXT)] * n, calls)),
            "bridge /mcp": lambda n=sessions: http_rate(bridge, "/mcp", n, calls, processes),
            "bridge /mcp/stream": lambda n=sessions: http_rate(bridge, "/mcp/stream", n, calls, processes),
            "sdk server /mcp": lambda n=sessions: http_rate(peer, "/mcp", n, calls, processes),
        }
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(await way())
        title = f"echo, {sessions} sessions"
        for name, every in found.items():
            report[f"{title}, {name}"] = sorted(every, key=lambda one: one["calls_per_second"])[rounds // 2]
        pairs = zip(found["bridge /mcp"], found["sdk server /mcp"], strict=True)
        ratios = [ours["calls_per_second"] / theirs["calls_per_second"] for ours, theirs in pairs]
        report[f"{title}, bridge over sdk server"] = {
            "median": round(median(ratios), 2),
            "least": round(min(ratios), 2),
        }
    return report


async def streams(tools: Any, bridge: str, processes: Mapping[str, Process], rounds: int) -> dict[str, Any]:
    """What the bridge adds to streams: its figures less those of the direct ones beside them, medians of the rounds."""
    report: dict[str, Any] = {}
    arguments = json.dumps({"seconds": PACED_S}).encode()
    for title, (count, gap_s) in STREAMS.items():
        found: dict[str, list[dict[str, Any]]] = {"grpc": [], "bridge": []}
        for _ in range(rounds):
            direct = paced(count, gap_s, lambda: over_grpc(tools, "paced", arguments))
            found["grpc"].append(await measured(processes, direct))
            bridged = paced(count, gap_s, lambda: over_http(bridge, PACED_S))
            found["bridge"].append(await measured(processes, bridged))
        figures = {
            way: {
                f"{kind} {at}": median(one[kind][at] for one in every)
                for kind in ("event", "first") for at in ("p50_ms", "p99_ms")
            }
            for way, every in found.items()
        }  # fmt: skip
        for way, every in found.items():
            report[f"{title}, {way}"] = figures[way] | {"cpu_us": every[-1]["cpu_us"]}
        added = {name: round(value - figures["grpc"][name], 3) for name, value in figures["bridge"].items()}
        report[f"{title}, added"] = added
    return report


async def idle_kilobytes(bridge: Process, count: int) -> float:
    """Memory of the bridge per session that only waits on its stream."""
    before = bridge.resident_bytes()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            connection = await stack.enter_async_context(Connection(bridge.address))
            await connection.open_session()
            assert (await connection.send("/mcp", None, "GET"))["status"] == "200"
        return round((bridge.resident_bytes() - before) / count / 1024, 1)


async def measure(calls: int, rounds: int, idle: int) -> dict[str, Any]:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(process("-m", "bench", "bridge", "--role", "tools"))
        command = ("-m", "narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.address)
        bridge = await stack.enter_async_context(process(*command))
        fresh = await stack.enter_async_context(process(*command))
        peer = await stack.enter_async_context(process("-m", "bench", "bridge", "--role", "peer"))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        tools = tool_pb2_grpc.ToolServiceStub(channel)
        processes = {"server": server, "bridge": bridge, "sdk server": peer}
        report = await echoes(tools, bridge.address, peer.address, processes, calls, rounds)
        del processes["sdk server"]
        report |= await streams(tools, bridge.address, processes, max(rounds // 2, 1))
        report[f"kilobytes per waiting session, {idle} sessions"] = await idle_kilobytes(fresh, idle)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1500, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--role", choices=("tools", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "peer":
        return serve_peer()
    if options.role == "tools":
        return uvloop.run(serve_tools())
    report = uvloop.run(measure(options.calls, options.rounds, options.idle))
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name, figures in report.items():
        print(f"{name}: {figures}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
