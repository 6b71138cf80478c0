"""Minutes of mixed load on a server that parks: python -m bench parking [--minutes 5] [--json FILE]

Live generations, submitted tickets, calls that are parked and left, calls of tools, cancellations and watchers, all at
once, of random lengths. At the start, in the middle and at the end what the server holds is read: memory, descriptors,
threads, its file of tickets and what its pools have given out. Results are kept for a few seconds only, so that what
grows is not what is meant to.

    python -m bench parking --waiting 1000 --watchers 100

measures instead how live calls do, and how punctual the server's event loop is, without and beside so many tickets that
wait and so many callers that each watch them all.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from google.protobuf.duration_pb2 import Duration
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1 import tool_pb2 as tool
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub

from bench.servers.gateway import Connection, Process
from bench.servers.server import READY_S, process

HERE = Path(__file__).parent
MODEL = HERE.parent / "models/demo/tiny-tool-demo-q8_0.gguf"
CLIENTS = 24
WARM_UP_S = 30.0
KEPT_S = 8
SETTLE_S = 25.0
"""In which all is over, and what was kept of it has expired and was swept."""

LAG = "narthex_event_loop_lag_seconds"
LIMIT = Duration(seconds=30)
PARK = common.CallOptions(on_disconnect=common.ON_DISCONNECT_PARK)
EXPECTED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.NOT_FOUND)
"""What a call may end with whose ticket another client cancels."""


def generation(chance: random.Random) -> text.GenerationSpec:
    stopping = text.StoppingOptions(max_tokens=chance.randint(1, 100), ignore_eos=True)
    return text.GenerationSpec(text="The time in Rome", stopping=stopping)


def invocation() -> tool.ToolInvocation:
    return tool.ToolInvocation(name="echo__echo", arguments=b'{"text": "here"}')


@dataclass(slots=True)
class Client:
    """Does one thing after the other, whatever chance says, and counts how each ended."""

    channel: grpc.aio.Channel
    chance: random.Random
    seen: Counter[str] = field(default_factory=Counter)

    async def run(self, until: float) -> None:
        doings = (self.live, self.parked, self.called, self.submitted, self.submitted, self.cancelled, self.watched)
        while time.monotonic() < until:
            do = self.chance.choice(doings)
            try:
                await do()
                self.seen[do.__name__] += 1
            except grpc.aio.AioRpcError as error:
                if do is self.cancelled and error.code() in EXPECTED:
                    self.seen[do.__name__] += 1
                else:
                    self.seen[f"{do.__name__} {error.code().name}: {error.details()}"] += 1

    async def live(self) -> None:
        request = text.GenerateStreamRequest(spec=generation(self.chance))
        async for _ in GenerationServiceStub(self.channel).GenerateStream(request):
            pass

    async def parked(self) -> None:
        """Left after a few events, and fetched."""
        request = text.GenerateStreamRequest(spec=generation(self.chance), options=PARK)
        call = GenerationServiceStub(self.channel).GenerateStream(request)
        ticket = (await call.read()).started.request_id
        for _ in range(self.chance.randrange(5)):
            await call.read()
        call.cancel()
        await self._fetch(ticket)

    async def called(self) -> None:
        work = invocation()
        request = tool.CallToolRequest(name=work.name, arguments=work.arguments)
        if self.chance.random() < 0.5:
            request.options.CopyFrom(PARK)
        async for _ in ToolServiceStub(self.channel).CallTool(request):
            pass

    async def submitted(self) -> None:
        await self._fetch(await self._submit())

    async def cancelled(self) -> None:
        ticket = await self._submit()
        await asyncio.sleep(self.chance.random() * 0.05)
        await LotServiceStub(self.channel).Cancel(wire.CancelRequest(ticket_id=ticket))

    async def watched(self) -> None:
        """With its events, by somebody who may leave early."""
        request = wire.WatchRequest(ticket_ids=[await self._submit()], events=True)
        leave = self.chance.randrange(60)
        async for _ in LotServiceStub(self.channel).Watch(request):
            leave -= 1
            if not leave:
                return

    async def _submit(self) -> str:
        work = wire.Work(generate=generation(self.chance))
        if self.chance.random() < 0.3:
            work = wire.Work(call_tool=invocation())
        return (await LotServiceStub(self.channel).Submit(wire.SubmitRequest(work=work))).ticket.id

    async def _fetch(self, ticket: str) -> None:
        async for _ in LotServiceStub(self.channel).Fetch(wire.FetchRequest(ticket_id=ticket, wait=LIMIT)):
            pass


@dataclass(frozen=True, slots=True)
class Served:
    """The server, where its metrics are, and its file of tickets."""

    process: Process
    metrics: str
    store: Path

    async def values(self) -> Mapping[str, float]:
        """Of every sample, by its name with its labels."""
        async with Connection(self.metrics) as connection:
            page = (await connection.read(await connection.send("/metrics", None, "GET"))).decode()
        lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    async def standing(self, channel: grpc.aio.Channel) -> dict[str, Any]:
        pools = (await LotServiceStub(channel).ListPools(wire.ListPoolsRequest())).pools
        occupancy = await LotServiceStub(channel).GetOccupancy(wire.GetOccupancyRequest())
        files = [path.stat().st_size for path in self.store.parent.glob(f"{self.store.name}*")]
        return {
            "MiB": round(self.process.resident_bytes() / 2**20, 1),
            "descriptors": self.process.descriptors(),
            "threads": self.process.threads(),
            "store MiB": round(sum(files) / 2**20, 1),
            "taken of pools": sum(one.used for pool in pools for one in pool.resources),
            "open tickets": occupancy.open_tickets,
            "results": occupancy.parked_results,
        }


@asynccontextmanager
async def server(*options: str) -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        echo = {"command": sys.executable, "args": [str(HERE / "servers" / "echo.py")]}
        (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"echo": echo}}))
        store = folder / "tickets.sqlite"
        command = [
            sys.executable, "-m", "narthex_server.main", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
            "--model", f"demo={MODEL}", "--mcp-config", folder / "mcp.json", "--cache-dir", folder / "cache",
            "--tickets-store", store, "--tickets-max-open", "5000", *options,
        ]  # fmt: skip
        async with process(command, folder / "log", os.environ) as child:
            assert child.stdout is not None
            line = (await asyncio.wait_for(child.stdout.readline(), READY_S)).decode()
            ready = dict(part.split("=", 1) for part in line.split() if "=" in part)
            yield Served(Process(ready["grpc"], child.pid), ready["metrics"], store)


async def soak(minutes: float) -> dict[str, Any]:
    report: dict[str, Any] = {}
    async with server("--tickets-keep", str(KEPT_S)) as one, contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(one.process.address)) for _ in range(CLIENTS)
        ]
        await asyncio.sleep(2)  # the upstream comes up
        seen: Counter[str] = Counter()
        for name, seconds in (("at start", WARM_UP_S), ("in the middle", minutes * 30), ("at end", minutes * 30)):
            until = time.monotonic() + seconds
            clients = [Client(channel, random.Random(number)) for number, channel in enumerate(channels)]
            await asyncio.gather(*(client.run(until) for client in clients))
            seen = sum((client.seen for client in clients), seen)
            await asyncio.sleep(SETTLE_S)
            report[name] = await one.standing(channels[0])
        return report | {"done": dict(seen.most_common(30))}


async def latencies(channel: grpc.aio.Channel, one: Served, seconds: float) -> dict[str, Any]:
    """Of live calls, one after the other, and of the event loop meanwhile."""
    stopping = text.StoppingOptions(max_tokens=1, ignore_eos=True)
    request = text.GenerateRequest(spec=text.GenerationSpec(text="The time", stopping=stopping))
    request.options.priority = common.PRIORITY_INTERACTIVE
    stub, until = ToolServiceStub(channel), time.monotonic() + seconds
    took: list[float] = []
    called: list[float] = []
    before = await one.values()
    while time.monotonic() < until:
        began = time.perf_counter()
        await GenerationServiceStub(channel).Generate(request)
        took.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        async for _ in stub.CallTool(tool.CallToolRequest(name="echo__echo", arguments=b'{"text": "here"}')):
            pass
        called.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(0.02)
    after = await one.values()
    return {
        "generation ms": spread(took),
        "tool ms": spread(called),
        "lag mean ms": round(mean(before, after) * 1e3, 2),
        "lag over 25 ms": share_above(before, after, "0.025"),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {f"p{at}": round(float(np.percentile(values, at)), 1) for at in (50, 95, 99)}


def mean(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    total, count = (after[f"{LAG}_{part}"] - before[f"{LAG}_{part}"] for part in ("sum", "count"))
    return total / max(count, 1)


def share_above(before: Mapping[str, float], after: Mapping[str, float], bound: str) -> float:
    below = f'{LAG}_bucket{{le="{bound}"}}'
    count = after[f"{LAG}_count"] - before[f"{LAG}_count"]
    return round(1 - (after[below] - before[below]) / max(count, 1), 3)


async def punctuality(waiting: int, watchers: int, seconds: float) -> dict[str, Any]:
    report: dict[str, Any] = {}
    async with server() as one, contextlib.AsyncExitStack() as stack:
        live, other = [
            await stack.enter_async_context(grpc.aio.insecure_channel(one.process.address)) for _ in range(2)
        ]
        await asyncio.sleep(2)
        await latencies(live, one, 2)
        report["alone"] = await latencies(live, one, seconds)
        lot = LotServiceStub(other)
        request = wire.SubmitRequest(work=wire.Work(generate=text.GenerationSpec(text="The time")))
        request.work.generate.stopping.CopyFrom(text.StoppingOptions(max_tokens=200, ignore_eos=True))
        request.options.priority = common.PRIORITY_BATCH
        over = asyncio.Event()

        async def fill() -> None:
            while not over.is_set():
                holding = await lot.GetOccupancy(wire.GetOccupancyRequest())
                missing = max(waiting - holding.open_tickets, 0)
                await asyncio.gather(*(lot.Submit(request) for _ in range(missing)))
                await asyncio.sleep(0.1)

        told = 0

        async def watch() -> None:
            nonlocal told
            async for _ in lot.Watch(wire.WatchRequest()):
                told += 1

        filling = asyncio.create_task(fill())
        await asyncio.sleep(5)
        report["beside those that wait"] = await latencies(live, one, seconds)
        watching = [asyncio.create_task(watch()) for _ in range(watchers)]
        await asyncio.sleep(5)
        before, began = told, time.monotonic()
        report["and those that watch"] = await latencies(live, one, seconds)
        report["told a second"] = round((told - before) / (time.monotonic() - began))
        over.set()
        await filling
        for task in watching:
            task.cancel()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--waiting", type=int, default=0)
    parser.add_argument("--watchers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.waiting:
        report = uvloop.run(punctuality(options.waiting, options.watchers, options.seconds))
    else:
        report = uvloop.run(soak(options.minutes))
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name, figures in report.items():
        print(f"{name}: {figures}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
