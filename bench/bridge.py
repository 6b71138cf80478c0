"""What the bridge adds to direct gRPC, and how its calls a second compare with the MCP SDK's own server.

    python -m bench bridge [--calls 1000] [--idle 500] [--json FILE]

The tool server, the bridge and the peer are processes of their own; this one is the client, whose own cost is in every
figure. Paced streams carry the moment each event was made, so their figures are one-way times on one clock.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import uvloop
from narthex.v1 import common_pb2, tool_pb2, tool_pb2_grpc

READY_S = 30
ROUNDS = 5
HEADERS = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
ECHO = [{"type": "text", "text": "hello"}]


class Tools(tool_pb2_grpc.ToolServiceServicer):
    """`echo`, and `paced`: 20 events a second for `seconds`, each saying when it was made."""

    async def WatchTools(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield tool_pb2.WatchToolsResponse(catalog_version=1)
        await asyncio.Event().wait()

    async def CallTool(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.name == "paced":
            for _ in range(int(json.loads(request.arguments)["seconds"] * 20)):
                text = str(time.monotonic_ns())
                yield tool_pb2.CallToolResponse(text_delta=common_pb2.TextDelta(text=text))
                await asyncio.sleep(0.05)
        yield tool_pb2.CallToolResponse(result=tool_pb2.ToolResult(content=json.dumps(ECHO).encode()))


async def serve_tools() -> None:
    server = grpc.aio.server()
    tool_pb2_grpc.add_ToolServiceServicer_to_server(Tools(), server)
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


@contextlib.asynccontextmanager
async def process(*command: str) -> AsyncIterator[tuple[str, int]]:
    """A child process; its ready line's first address, and its pid."""
    child = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=-3)
    assert child.stdout is not None
    try:
        line = (await asyncio.wait_for(child.stdout.readline(), READY_S)).decode()
        yield line.split("=")[1].split()[0], child.pid
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
    return {"calls_per_second": round(len(took) / (time.perf_counter() - start)), **spread(took)}


async def http_rate(address: str, path: str, callers: int, calls: int) -> dict[str, float]:
    """`rate` of the echo tool over kept-alive connections with a session each."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection(address)) for _ in range(callers)]
        for connection in connections:
            await connection.open_session()
        return await rate([lambda one=one: one.call(path, PLAIN) for one in connections], calls)


async def paced(streams: int, start: Callable[[], Awaitable[list[tuple[int, int]]]], gap_s: float) -> dict[str, Any]:
    """One-way time per event, and from asking to the first event, of streams started `gap_s` apart."""
    first: list[int] = []

    async def one(number: int) -> list[int]:
        await asyncio.sleep(number * gap_s)
        asked = time.monotonic_ns()
        seen = await start()
        first.append(seen[0][1] - asked)
        return [came - made for made, came in seen[1:]]

    every = await asyncio.gather(*map(one, range(streams)))
    return {"event": spread([took for one in every for took in one]), "first": spread(first)}


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def idle_kilobytes(address: str, pid: int, count: int) -> float:
    """Memory of the bridge per session that only waits on its stream."""
    before = resident(pid)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            connection = await stack.enter_async_context(Connection(address))
            await connection.open_session()
            assert (await connection.send("/mcp", None, "GET"))["status"] == "200"
        return round((resident(pid) - before) / count / 1024, 1)


async def measure(calls: int, idle: int) -> dict[str, Any]:
    report: dict[str, Any] = {}
    async with contextlib.AsyncExitStack() as stack:
        grpc_address, _ = await stack.enter_async_context(process(__file__, "--role", "tools"))
        bridge = ("-m", "narthex_bridge.main", "--http", "127.0.0.1:0", "--server", grpc_address)
        http_address, _ = await stack.enter_async_context(process(*bridge))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(grpc_address))
        tools = tool_pb2_grpc.ToolServiceStub(channel)

        peer, _ = await stack.enter_async_context(process(__file__, "--role", "peer"))
        for callers in (1, 16):
            rounds: dict[str, list[dict[str, float]]] = {}
            for _ in range(ROUNDS):  # in turns, so that other work on the machine meets all alike
                direct = [lambda: over_grpc(tools)] * callers
                rounds.setdefault("grpc", []).append(await rate(direct, calls // ROUNDS))
                for name, address, path in (
                    ("bridge /mcp", http_address, "/mcp"),
                    ("bridge /mcp/stream", http_address, "/mcp/stream"),
                    ("sdk server /mcp", peer, "/mcp"),
                ):
                    rounds.setdefault(name, []).append(await http_rate(address, path, callers, calls // ROUNDS))
            for name, found in rounds.items():
                report[f"echo, {callers} callers, {name}"] = sorted(found, key=lambda one: one["p50_ms"])[ROUNDS // 2]

        arguments = json.dumps({"seconds": 2}).encode()
        for streams, gap_s in ((16, 0.0), (100, 0.0), (100, 0.01)):
            name = f"{streams} streams of 20 events/s, {'at once' if not gap_s else f'{1 / gap_s:.0f} arrivals/s'}"
            direct = await paced(streams, lambda: over_grpc(tools, "paced", arguments), gap_s)
            bridged = await paced(streams, lambda: over_http(http_address, 2), gap_s)
            report[f"{name}, grpc"], report[f"{name}, bridge"] = direct, bridged
        http_address, pid = await stack.enter_async_context(process(*bridge))
        report[f"kilobytes per waiting session, {idle} sessions"] = await idle_kilobytes(http_address, pid, idle)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--idle", type=int, default=500)
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
    report = uvloop.run(measure(options.calls, options.idle))
    for name, figures in report.items():
        print(f"{name}: {figures}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
