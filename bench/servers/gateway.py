"""MCP servers over HTTP as processes of their own, and a client so thin that they are what is measured."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_S = 60
HEADERS = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
Once = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Process:
    """A child process, with those it started itself, and where it listens."""

    address: str
    pid: int

    def cpu_s(self) -> float:
        """What they have spent so far, kernel time included."""
        return _cpu_s(self.pid)

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(_cpu_s(int(child)) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextlib.asynccontextmanager
async def process(
    *command: str | Path, python: Path = Path(sys.executable), address: str = ""
) -> AsyncIterator[Process]:
    """A Python program that listens at `address`, or where its ready line's first address is."""
    child = await asyncio.create_subprocess_exec(
        python, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert child.stdout is not None
    try:
        if not address:
            line = (await asyncio.wait_for(child.stdout.readline(), READY_S)).decode()
            address = line.split("=")[1].split()[0]
        yield Process(address, child.pid)
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
        for _ in range(10 * READY_S):  # a peer says that it is ready before it listens, or says nothing
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
        return await self.read(await self.send(path, message))

    async def read(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readline(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readline()

    async def open_session(self, **capabilities: object) -> None:
        client = {"name": "bench", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": client}
        headers = await self.send("/mcp", rpc("initialize", params))
        await self.read(headers)
        self.headers = f"Mcp-Session-Id: {headers['mcp-session-id']}\r\nMcp-Protocol-Version: 2025-11-25\r\n"
        await self.call("/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"})


def rpc(method: str, params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


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


async def measured(processes: Mapping[str, Process], work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The figures of `work`, and the microseconds of CPU for each of its calls or events, by process."""
    before, own = {name: one.cpu_s() for name, one in processes.items()}, time.process_time()
    found = await work
    spent = {name: one.cpu_s() - before[name] for name, one in processes.items()}
    spent["client"] = time.process_time() - own
    calls = found.pop("calls")
    return found | {"cpu_us": {name: round(seconds / calls * 1e6) for name, seconds in spent.items() if seconds > 0.02}}


async def http_rate(
    address: str, path: str, callers: int, calls: int, processes: Mapping[str, Process], tool: str = "echo"
) -> dict[str, Any]:
    """`rate` of an echo tool, `measured`, over kept-alive connections with a session each."""
    message = rpc("tools/call", {"name": tool, "arguments": {"text": "hello"}})
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection(address)) for _ in range(callers)]
        for connection in connections:
            await connection.open_session()
        answer = await connections[0].call(path, message)
        if b'"isError":false' not in answer or b"hello" not in answer:
            raise RuntimeError(f"{address} does not echo: {answer[:300]!r}")
        workers: list[Once] = [lambda one=one: one.call(path, message) for one in connections]  # type: ignore[misc]
        return await measured(processes, rate(workers, calls))
