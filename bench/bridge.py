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
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import uvloop
from narthex.v1 import tool_pb2, tool_pb2_grpc

READY_S = 30
HEADERS = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
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
    from narthex_server import metrics
    from narthex_server.app import grpc_server, interceptors, relaying
    from narthex_server.config import ServerConfig
    from narthex_server.interceptors.around import Stack
    from narthex_server.interceptors.drain import DrainInterceptor
    from narthex_server.services.registration import register
    from narthex_server.services.tool import ToolService
    from narthex_server.tools.catalog import Catalog
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

    config, registry = ServerConfig(), metrics.registry()
    around = interceptors(config, registry)
    server = grpc_server(config, Stack(DrainInterceptor(), around))
    catalog = Catalog(natives=(Echo(), Paced()), observer=metrics.ToolMetrics(registry))
    register(server, {"ToolService": ToolService(catalog, relaying(config, around))})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def serve_peer(port: int) -> None:
    """The MCP SDK's server with the same echo tool, answering JSON as the bridge does."""
    from mcp.server import MCPServer

    server = MCPServer("peer", log_level="ERROR")
    server.add_tool(lambda text: text, name="echo")
    print(f"ready http=127.0.0.1:{port}", flush=True)
    server.run("streamable-http", port=port, json_response=True)


@dataclass(frozen=True, slots=True)
class Process:
    """A child process and where it listens."""

    address: str
    pid: int

    def cpu_s(self) -> float:
        """What it has spent so far, kernel time included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.asynccontextmanager
async def process(*command: str | Path, python: Path = Path(sys.executable)) -> AsyncIterator[Process]:
    """A Python program; its ready line's first address is where it listens."""
    child = await asyncio.create_subprocess_exec(
        python, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert child.stdout is not None
    try:
        line = (await asyncio.wait_for(child.stdout.readline(), READY_S)).decode()
        yield Process(line.split("=")[1].split()[0], child.pid)
    finally:
        child.kill()
        await child.wait()


class Connection:
    """One kept-alive HTTP/1.1 connection; as thin as a client can be, so that the server is what is measured."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self.headers = ""

    async def __aenter__(self) -> "Connection":
        for _ in range(100):  # the peer says that it is ready before it listens
            try:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
                return self
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)
        raise TimeoutError(f"{self._host}:{self._port} does not listen")

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, path: str, message: object, method: str = "POST") -> dict[str, str]:
        body = json.dumps(message).encode() if message is not None else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}{HEADERS}{self.headers}\r\n".encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        headers["status"] = lines[0].split()[1]
        return headers

    async def call(self, path: str, message: object) -> bytes:
        """Sends and reads the whole answer."""
        headers = await self.send(path, message)
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readline(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readline()

    async def open_session(self) -> None:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        headers = await self.send("/mcp", rpc("initialize", params))
        await self._reader.readexactly(int(headers["content-length"]))
        self.headers = f"Mcp-Session-Id: {headers['mcp-session-id']}\r\nMcp-Protocol-Version: 2025-11-25\r\n"
        await self.call("/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"})


def rpc(method: str, params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def tool_call(name: str, **arguments: object) -> dict[str, object]:
    return rpc("tools/call", {"name": name, "arguments": arguments, "_meta": {"progressToken": 1}})


PLAIN = rpc("tools/call", {"name": "echo", "arguments": {"text": "hello"}})
TEXT = b'{"text":"hello"}'
Once = Callable[[], Awaitable[object]]


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


def spread(nanoseconds: list[int]) -> dict[str, float]:
    ordered = sorted(nanoseconds)
    return {name: round(ordered[int(len(ordered) * q)] / 1e6, 3) for name, q in (("p50_ms", 0.5), ("p99_ms", 0.99))}


async def rate(workers: list[Once], calls: int) -> dict[str, float]:
    """Calls a second of all workers together, and the time of one call."""
    took: list[int] = []

    async def work(once: Once) -> None:
        for _ in range(calls // len(workers)):
            start = time.perf_counter_ns()
            await once()
            took.append(time.perf_counter_ns() - start)

    start = time.perf_counter()
    await asyncio.gather(*map(work, workers))
    return {"calls": len(took), "calls_per_second": round(len(took) / (time.perf_counter() - start)), **spread(took)}


async def http_rate(address: str, path: str, callers: int, calls: int) -> dict[str, float]:
    """`rate` of the echo tool over kept-alive connections with a session each."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection(address)) for _ in range(callers)]
        for connection in connections:
            await connection.open_session()
        return await rate([lambda one=one: one.call(path, PLAIN) for one in connections], calls)


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


async def measured(processes: Mapping[str, Process], work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The figures of `work`, and the microseconds of CPU for each of its calls or events, by process."""
    before, own = {name: one.cpu_s() for name, one in processes.items()}, time.process_time()
    found = await work
    spent = {name: one.cpu_s() - before[name] for name, one in processes.items()}
    spent["client"] = time.process_time() - own
    calls = found.pop("calls")
    return found | {"cpu_us": {name: round(seconds / calls * 1e6) for name, seconds in spent.items() if seconds > 0.02}}


async def echoes(
    tools: Any, bridge: str, peer: str, processes: Mapping[str, Process], calls: int, rounds: int
) -> dict[str, Any]:
    """Rates of the echo tool, for each number of sessions: of every way the round with the median rate."""
    report: dict[str, Any] = {}
    for sessions in SESSIONS:
        ways: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "grpc": lambda n=sessions: rate([lambda: over_grpc(tools, arguments=TEXT)] * n, calls),
            "bridge /mcp": lambda n=sessions: http_rate(bridge, "/mcp", n, calls),
            "bridge /mcp/stream": lambda n=sessions: http_rate(bridge, "/mcp/stream", n, calls),
            "sdk server /mcp": lambda n=sessions: http_rate(peer, "/mcp", n, calls),
        }
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(await measured(processes, way()))
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
        server = await stack.enter_async_context(process(__file__, "--role", "tools"))
        command = ("-m", "narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.address)
        bridge = await stack.enter_async_context(process(*command))
        peer = await stack.enter_async_context(process(__file__, "--role", "peer"))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        tools = tool_pb2_grpc.ToolServiceStub(channel)
        processes = {"server": server, "bridge": bridge, "sdk server": peer}
        report = await echoes(tools, bridge.address, peer.address, processes, calls, rounds)
        del processes["sdk server"]
        report |= await streams(tools, bridge.address, processes, max(rounds // 2, 1))
        fresh = await stack.enter_async_context(process(*command))
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
        from narthex.settings import Address
        from narthex_bridge.main import bind

        with bind(Address("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        return serve_peer(port)
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
