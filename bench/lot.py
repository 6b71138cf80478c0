"""What the lot does under overload, and what it costs.

    python -m bench lot [MODEL] [--flood 40] [--slots 8] [--seconds 8] [--rounds 3] [--json FILE]

First `narthex server`: urgent requests one after the other, alone and beside a flood of callers that never rest, once
as interactive work in a flood of batch work, once all of them alike; and the flood by itself. Then the engine in this
process: the same requests at once, many more than there are slots, handed to it directly and through a pool, in turns.
Last, what it takes to be admitted where nobody waits.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import uvloop
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineEvent, EngineRequest, Sampling, Tokens
from narthex_server.loading import LoadOptions, load
from narthex_server.lot.pool import Pool
from narthex_server.pipelines.admitted import AdmittedEngine, capacity

from bench.servers.chatting import ChatServer, chat_server

DEMO = Path(__file__).parent.parent / "models/demo/tiny-tool-demo-q8_0.gguf"
MODEL = "model"
PAUSE_S = 0.2
"""Between two urgent requests."""
TOKENS = 32
BATCH, NORMAL, INTERACTIVE = common.PRIORITY_BATCH, common.PRIORITY_NORMAL, common.PRIORITY_INTERACTIVE
Generate = Callable[[EngineRequest], AsyncGenerator[EngineEvent]]


@dataclass(slots=True)
class Seen:
    """Milliseconds of each urgent request, and the flood's tokens a second."""

    urgent: list[float] = field(default_factory=list)
    flood: list[float] = field(default_factory=list)

    def row(self) -> str:
        urgent = [f"{np.percentile(self.urgent, at):.0f}" for at in (50, 99)] if self.urgent else ["-", "-"]
        return " | ".join([*urgent, f"{median(self.flood):.0f}" if self.flood else "-"])


async def one(server: ChatServer, rng: random.Random, priority: common.Priority.ValueType) -> int:
    """The tokens of a request with a prompt of its own."""
    spec = wire.GenerationSpec(
        model=MODEL,
        token_ids=common.TokenIds(ids=rng.choices(range(3, 256), k=rng.randint(16, 128))),
        sampling=wire.SamplingOptions(temperature=0),
        stopping=wire.StoppingOptions(max_tokens=TOKENS, ignore_eos=True),
    )
    request = wire.GenerateStreamRequest(spec=spec, options=common.CallOptions(priority=priority))
    async for event in server.generation.GenerateStream(request):
        if event.HasField("finished"):
            return event.finished.usage.completion_tokens
    raise RuntimeError("a stream without an end")


async def scene(
    server: ChatServer, seed: int, seconds: float, callers: int,
    flood: common.Priority.ValueType, urgent: common.Priority.ValueType | None,
) -> tuple[list[float], float]:  # fmt: skip
    """Milliseconds of urgent requests, and tokens a second of the flood's callers."""
    rng, took, tokens = random.Random(seed), [], 0
    until = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal tokens
        while time.perf_counter() < until:
            made = await one(server, rng, flood)
            tokens += made  # not in one: what was read before the wait would be written after it

    async def trickle(priority: common.Priority.ValueType) -> None:
        while time.perf_counter() < until:
            begun = time.perf_counter()
            await one(server, rng, priority)
            took.append(1e3 * (time.perf_counter() - begun))
            await asyncio.sleep(PAUSE_S)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
        if urgent is not None:
            group.create_task(trickle(urgent))
    return took, tokens / (time.perf_counter() - begun)


async def overload(args: argparse.Namespace) -> dict[str, Seen]:
    """All scenes in turns."""
    scenes = {
        "urgent alone": (0, BATCH, INTERACTIVE),
        "the flood alone": (args.flood, BATCH, None),
        "interactive in a flood of batch": (args.flood, BATCH, INTERACTIVE),
        "all alike": (args.flood, NORMAL, NORMAL),
    }
    found = {name: Seen() for name in scenes}
    options = [
        "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--model", f"{MODEL}={args.model}",
        "--max-slots", str(args.slots), "--max-context", "256", "--threads", str(args.threads), "--no-speculate",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        async with chat_server("narthex_server.main", options, Path(folder) / "log") as server:
            await scene(server, 0, 1, args.flood, BATCH, INTERACTIVE)  # warms up
            for number in range(args.rounds):
                for name, (callers, flood, urgent) in scenes.items():
                    took, rate = await scene(server, number, args.seconds, callers, flood, urgent)
                    found[name].urgent += took
                    found[name].flood += [rate] * bool(callers)
    return found


async def admission(args: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Tokens a second without a pool and with it, and the microseconds of an admission where nobody waits."""
    model = load(args.model, LoadOptions(threads=args.threads, slots=args.slots, max_context=256))
    handle = EngineHandle(model.session, EngineOptions(max_waiting=1024, speculate=False))
    handle.start()
    ways: dict[str, Generate] = {
        "the engine alone": handle.generate,
        "through a pool": AdmittedEngine(handle, Pool("model/bench", capacity(handle))).generate,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(2 * args.rounds + 1):  # the first warms up
        for name in sorted(ways, reverse=bool(number % 2)):
            rates[name].append(await rate(ways[name], requests(number, 3 * args.flood)))
    pool, costs = Pool("model/bench", {"slots": 2, "kv_tokens": 4096}), []
    for _ in range(20_000):
        begun = time.perf_counter_ns()
        with await pool.admit({"slots": 1, "kv_tokens": 700}):
            pass
        costs.append(time.perf_counter_ns() - begun)
    await handle.stop(0)
    return {name: median(every[1:]) for name, every in rates.items()}, median(costs) / 1e3


def requests(seed: int, count: int) -> list[EngineRequest]:
    rng = random.Random(seed)
    return [
        EngineRequest(
            f"{seed}-{number}", tuple(rng.choices(range(3, 256), k=rng.randint(16, 128))), rng.randint(8, 64),
            sampling=Sampling(0),
        )
        for number in range(count)
    ]  # fmt: skip


async def rate(generate: Generate, every: list[EngineRequest]) -> float:
    """Tokens a second of all requests, which come at once."""

    async def run(request: EngineRequest) -> int:
        async with aclosing(generate(request)) as events:
            return sum([len(event.ids) async for event in events if isinstance(event, Tokens)])

    begun = time.perf_counter()
    return sum(await asyncio.gather(*map(run, every))) / (time.perf_counter() - begun)


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    seen = await overload(args)
    rates, cost = await admission(args)
    print(f"{args.flood} callers, {args.slots} slots, {TOKENS} tokens each; load average {os.getloadavg()[0]:.1f}\n\n"
          "| | urgent p50, ms | p99 | flood, tokens/s |\n|---|---|---|---|")  # fmt: skip
    for name, figures in seen.items():
        print(f"| {name} | {figures.row()} |")
    print("\n| | tokens/s |\n|---|---|")
    for name, tokens in rates.items():
        print(f"| {name} | {tokens:.0f} |")
    print(f"\nan admission where nobody waits: {cost:.1f} µs")
    scenes = {name: {"urgent": one.urgent, "flood": one.flood} for name, one in seen.items()}
    return {"scenes": scenes, "tokens_per_second": rates, "admission_us": cost}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench lot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=DEMO)
    parser.add_argument("--flood", type=int, default=40, help="callers that never rest")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8, help="of each scene")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    report = uvloop.run(measure(args))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
