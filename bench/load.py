"""Mixed load: narthex's server and llama-server under the same arrivals, one after the other in every round.

    python -m bench load [MODEL] [--requests 40] [--rate 0.7] [--rounds 3] [--json FILE]

A request is good when its first token came within --first seconds and the others, on average, within --between. Each
server runs in a process of its own and has the machine for itself; this process is the client.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from bench.peers.catalogue import DEFAULT, llama_cpp
from bench.servers.llama_server import llama_server
from bench.servers.narthex import narthex_server
from bench.servers.server import Server
from bench.workload import OUTPUT, PROMPT, Arrival, arrivals


@dataclass(frozen=True, slots=True)
class Round:
    """What one server made of one workload; milliseconds but for the first two."""

    good_requests_per_second: float
    good_tokens_per_second: float
    first_p50: float
    first_p99: float
    between_p50: float
    between_p99: float


async def offered(server: Server, load: list[Arrival]) -> list[list[float]]:
    """When each token of each request came, in seconds from its arrival; a request that fails has none."""
    start = time.perf_counter()

    async def one(arrival: Arrival) -> list[float]:
        await asyncio.sleep(start + arrival.at - time.perf_counter())
        begun = time.perf_counter()
        return [at - begun for at in await server.stream(arrival.prompt, arrival.tokens)]

    return await asyncio.gather(*map(one, load))


def judged(outcomes: list[list[float]], load: list[Arrival], first: float, between: float) -> Round:
    ended = max(arrival.at + times[-1] for arrival, times in zip(load, outcomes, strict=True))
    good = [
        times for times in outcomes
        if times[0] <= first and (times[-1] - times[0]) / max(len(times) - 1, 1) <= between
    ]  # fmt: skip
    firsts = [times[0] * 1e3 for times in outcomes]
    gaps = [(later - earlier) * 1e3 for times in outcomes for earlier, later in pairwise(times)]
    return Round(
        len(good) / ended, sum(map(len, good)) / ended,
        *(float(np.percentile(values, at)) for values in (firsts, gaps) for at in (50, 99)),
    )  # fmt: skip


async def measure(args: argparse.Namespace) -> dict[str, list[Round]]:
    build = llama_cpp(args.cache)
    build.install()
    size = PROMPT[1] + OUTPUT[1] + 24

    def ours(log: Path) -> AbstractAsyncContextManager[Server]:
        return narthex_server(args.model, args.slots, size, args.threads, args.compute, args.longest_pause, log)

    def theirs(log: Path) -> AbstractAsyncContextManager[Server]:
        return llama_server(build, args.model, args.slots, size, args.threads, log)

    starts: dict[str, Callable[[Path], AbstractAsyncContextManager[Server]]] = {
        "narthex": ours, "llama-server": theirs
    }  # fmt: skip
    rounds: dict[str, list[Round]] = {name: [] for name in starts}
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(start(args.cache / f"load-{name}.log"))
            for name, start in starts.items()
        }
        warm: list[Awaitable[list[float]]] = [server.stream(range(3, 67), 8) for server in servers.values()]
        await asyncio.gather(*warm)
        for number in range(args.rounds):
            load = arrivals(args.requests, args.rate, args.seed + number)
            for name, server in servers.items():
                outcomes = await offered(server, load)
                if short := sum(len(times) < arrival.tokens for times, arrival in zip(outcomes, load, strict=True)):
                    print(f"{name}: {short} streams did not show every token", file=sys.stderr)
                rounds[name].append(judged(outcomes, load, args.first, args.between))
                print(f"round {number + 1}: {name} {rounds[name][-1]}", file=sys.stderr, flush=True)
    return rounds


def table(rounds: dict[str, list[Round]]) -> str:
    """Medians of the rounds, and how many times better narthex is."""
    lines = ["| | " + " | ".join(rounds) + " | times better |", "|---" * (len(rounds) + 2) + "|"]
    for name in Round.__dataclass_fields__:
        ours, theirs = (median(getattr(one, name) for one in every) for every in rounds.values())
        better = (ours, theirs) if name.endswith("second") else (theirs, ours)
        ratio = f"{better[0] / better[1]:.2f}" if better[1] else "-"
        lines.append(f"| {name.replace('_', ' ')} | {ours:.3g} | {theirs:.3g} | {ratio} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        "bench load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=DEFAULT / "models/135m-q4_0.gguf")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--rate", type=float, default=0.7, help="requests a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=float, default=2.0)
    parser.add_argument("--between", type=float, default=0.1)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--longest-pause", type=float, default=0.04, help="narthex's own option")
    parser.add_argument("--cache", type=Path, default=DEFAULT, help="where the peers are installed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rounds = asyncio.run(measure(args))
    print(f"{args.model.stem}: {args.requests} requests, {args.rate} a second, {args.slots} slots; "
          f"{args.rounds} rounds; good: first token within {args.first} s, the others {args.between} s; "
          f"load average {os.getloadavg()[0]:.1f}\n\n{table(rounds)}")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({name: [asdict(one) for one in every] for name, every in rounds.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
