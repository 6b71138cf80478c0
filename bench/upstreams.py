"""A dozen upstreams for minutes: what one that keeps dying does to the others, and whether anything is left behind.

    python -m bench upstreams [--seconds 20] [--callers 16] [--rounds 3] [--soak-minutes 0] [--json FILE]

`narthex server` with twelve echo servers, and another with eleven and one that lives for a third of a second, take
turns: callers of plain gRPC call the same eleven of each. With --soak-minutes another one of the second kind is called
so long, the dying upstream too; memory, descriptors and children of the server are told at start, middle and end.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop
from narthex.v1 import tool_pb2 as tool
from narthex.v1 import tool_pb2_grpc as tool_grpc

from bench.servers.gateway import Process, process

SERVERS = Path(__file__).parent / "servers"
CALM = tuple(f"echo{number}" for number in range(11))
OTHER = "twelfth"
LIFE_S = 0.33


@contextlib.asynccontextmanager
async def server(twelfth: list[str]) -> AsyncIterator[Process]:
    """One over the eleven and another command."""
    echo = {"command": sys.executable, "args": [str(SERVERS / "echo.py")]}
    servers = {name: echo for name in CALM} | {OTHER: {"command": sys.executable, "args": twelfth}}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mcp.json"
        config.write_text(json.dumps({"mcpServers": servers}))
        anywhere = ("--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
        async with process("-m", "narthex_server.main", *anywhere, "--mcp-config", config) as started:
            yield started


class Caller:
    """Calls the upstreams one after the other until it is told to end."""

    def __init__(self, stub: tool_grpc.ToolServiceStub, names: tuple[str, ...]) -> None:
        self._stub = stub
        self._names = names
        self.took: list[int] = []
        self.codes: Counter[str] = Counter()

    async def run(self, until: float) -> None:
        for name, number in zip(itertools.cycle(self._names), itertools.count(), strict=False):
            if time.monotonic() >= until:
                return
            text = f"{name} {number}"
            began = time.perf_counter_ns()
            try:
                async for event in self._stub.CallTool(
                    tool.CallToolRequest(name=f"{name}__echo", arguments=json.dumps({"text": text}).encode()),
                    timeout=30,
                ):
                    if event.HasField("result") and json.loads(event.result.content)[0]["text"] != text:
                        raise RuntimeError(f"{name} was asked for {text!r} and said {event.result.content!r}")
            except grpc.aio.AioRpcError as error:
                self.codes[f"{name} {error.code().name}" if name == OTHER else error.code().name] += 1
            else:
                self.codes[f"{OTHER} OK" if name == OTHER else "OK"] += 1
                self.took.append(time.perf_counter_ns() - began)


async def load(address: str, callers: int, seconds: float, names: tuple[str, ...] = CALM) -> dict[str, Any]:
    async with grpc.aio.insecure_channel(address) as channel:
        every = [Caller(tool_grpc.ToolServiceStub(channel), names[at:] + names[:at]) for at in range(callers)]
        until = time.monotonic() + seconds
        await asyncio.gather(*(one.run(until) for one in every))
    took = sorted(itertools.chain.from_iterable(one.took for one in every))
    codes = sum((one.codes for one in every), Counter())
    spread = {f"p{q}_ms": round(took[len(took) * q // 100] / 1e6, 2) for q in (50, 95, 99)}
    return {"calls_per_second": round(len(took) / seconds)} | spread | {"answers": dict(codes)}


def standing(one: Process) -> dict[str, float]:
    children = Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()
    return {
        "MiB": round(one.resident_bytes() / 2**20, 1),
        "descriptors": one.descriptors(),
        "threads": one.threads(),
        "children": len(children),
    }


async def beside(options: argparse.Namespace) -> dict[str, Any]:
    """The eleven beside a twelfth of their kind, and beside one that dies."""
    echo, flapping = [str(SERVERS / "echo.py")], [str(SERVERS / "flapping.py"), str(LIFE_S)]
    found: dict[str, list[dict[str, Any]]] = {"beside a calm one": [], "beside one that dies": []}
    async with server(echo) as calm, server(flapping) as shaken:
        for _ in range(options.rounds):
            for name, one in zip(found, (calm, shaken), strict=True):
                found[name].append(await load(one.address, options.callers, options.seconds))
    report: dict[str, Any] = {
        name: sorted(rounds, key=lambda one: one["p95_ms"])[len(rounds) // 2] for name, rounds in found.items()
    }
    calm_p95, shaken_p95 = (one["p95_ms"] for one in report.values())
    return report | {"p95 beside one that dies over p95 beside a calm one": round(shaken_p95 / calm_p95, 2)}


async def soak(options: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {}
    async with server([str(SERVERS / "flapping.py"), str(LIFE_S)]) as one:
        await load(one.address, options.callers, 20, (*CALM, OTHER))  # caches fill
        report["at start"] = standing(one)
        for name in ("in the middle", "at end"):
            half = await load(one.address, options.callers, options.soak_minutes * 30, (*CALM, OTHER))
            report[name] = standing(one) | half
    return report


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each round")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak-minutes", type=float, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = await beside(options)
    if options.soak_minutes:
        report |= await soak(options)
    for name, figures in report.items():
        print(f"{name}: {figures}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    uvloop.run(main())
