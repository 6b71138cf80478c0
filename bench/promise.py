"""The first promise: what threads wait for each other, in narthex and in a plain server of the same parts.

    python -m bench promise [MODEL] [--chats 50] [--slots 16] [--rounds 5] [--json FILE]

The same conversations (many lengths, several turns, adapters, calls of an MCP tool) go over gRPC to `narthex server`
and to bench/peers/plain, where request threads and the batching loop share what they use behind ordinary locks. Both
run the same decoder session, scheduler, sampler, tokenizer and text pipeline, with the same options. They take turns,
each first in every other round, and every round's conversations are new. Waits are what the servers' own locks say.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path
from statistics import median

import numpy as np
import uvloop
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import tool_pb2
from narthex_server.sync.locks import Locks

from bench.adapter_folders import write_adapters
from bench.chats import WINDOW, Chat, Turn, chats
from bench.readings import Reading, Readings, between, readings
from bench.servers.chatting import ChatServer, chat_server

DEMO = Path(__file__).parent.parent / "models/demo/tiny-tool-demo-q8_0.gguf"
ECHO = Path(__file__).parent / "servers/echo.py"
PLAIN, NARTHEX = "plain", "narthex"
MODULES = {PLAIN: "bench.peers.plain", NARTHEX: "narthex_server.main"}
MODEL, TOOL = "model", "echo__echo"
PARAMETERS = b'{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}'
RANK = 8
MILLISECONDS = ("latency", "first", "gap", "tool")


@dataclass(slots=True)
class Seen:
    """What the client saw in one round: seconds of every request, to its first token, between tokens, of every call."""

    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    tool: list[float] = field(default_factory=list)
    tokens: int = 0
    texts: dict[tuple[int, int], str] = field(default_factory=dict)
    """By the chat's seed and how many messages there were."""


@dataclass(frozen=True, slots=True)
class Round:
    """One server's figures of one round; times in milliseconds."""

    tokens_per_second: float
    requests_per_second: float
    latency_p50: float
    latency_p99: float
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    tool_p50: float
    tool_p99: float
    cpu_per_token: float
    lock_wait_share: float
    """Seconds that any thread waited for any lock, of the seconds that requests took."""
    contention: float
    """The part of acquisitions that found the lock taken."""
    lock_wait_p99: float
    """Of all acquisitions of all locks, those at once included."""


class Client:
    """Leads conversations with one server."""

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        self.seen = Seen()

    async def lead(self, chat: Chat) -> None:
        """All turns of a conversation."""
        said: list[wire.ChatMessage] = []
        for number, turn in enumerate(chat.turns):
            said.append(message(wire.ROLE_USER, turn.text))
            answer = await self._answer(chat, said, turn)
            if not turn.calls:
                said.append(message(wire.ROLE_ASSISTANT, answer))
                continue
            arguments = json.dumps({"text": turn.text}).encode()
            call = wire.ToolCall(id=f"call{number}", name="echo", arguments=arguments)
            said.append(message(wire.ROLE_ASSISTANT, answer, tool_calls=[call]))
            said.append(message(wire.ROLE_TOOL, await self._call(arguments), tool_call_id=call.id, name="echo"))
            said.append(message(wire.ROLE_ASSISTANT, await self._answer(chat, said, turn)))

    async def _answer(self, chat: Chat, said: Sequence[wire.ChatMessage], turn: Turn) -> str:
        spec = wire.ChatSpec(
            model=MODEL,
            messages=window(said),
            tools=[wire.ToolSpec(name="echo", description="Says it again", parameters=PARAMETERS)] * chat.tools,
            sampling=wire.SamplingOptions(temperature=0.8, top_p=0.95, seed=chat.seed, frequency_penalty=0.2),
            stopping=wire.StoppingOptions(max_tokens=turn.tokens, ignore_eos=True),
            adapters=[wire.AdapterUse(name=chat.adapter)] if chat.adapter else [],
        )
        seen, times, text = self.seen, [time.perf_counter()], ""
        async for event in self._server.generation.ChatStream(wire.ChatStreamRequest(spec=spec)):
            match event.WhichOneof("event"):
                case "text_delta":
                    times.append(time.perf_counter())
                    text += event.text_delta.text
                case "finished":
                    seen.tokens += event.finished.usage.completion_tokens
        seen.latency.append(time.perf_counter() - times[0])
        if len(times) > 1:
            seen.first.append(times[1] - times[0])
        seen.gap += [later - earlier for earlier, later in pairwise(times[1:])]
        seen.texts[chat.seed, len(said)] = text
        return text

    async def _call(self, arguments: bytes) -> str:
        begun, said = time.perf_counter(), ""
        async for event in self._server.tools.CallTool(tool_pb2.CallToolRequest(name=TOOL, arguments=arguments)):
            if event.HasField("result"):
                said = json.loads(event.result.content)[0]["text"]
        self.seen.tool.append(time.perf_counter() - begun)
        return said


def message(role: wire.Role.ValueType, text: str, **fields: object) -> wire.ChatMessage:
    return wire.ChatMessage(role=role, content=[wire.ContentPart(text=text)] if text else [], **fields)  # type: ignore[arg-type]


def window(said: Sequence[wire.ChatMessage]) -> Sequence[wire.ChatMessage]:
    """The latest turns, so many as fit; the last one in any case."""
    begins = [at for at, one in enumerate(said) if one.role == wire.ROLE_USER]
    for at in begins:
        if sum(one.ByteSize() for one in said[at:]) <= WINDOW:
            return said[at:]
    return said[begins[-1] :]


async def measured(server: ChatServer, load: Sequence[Chat]) -> tuple[Round, Readings, Seen]:
    """All conversations at once."""
    before, cpu, client = await asyncio.to_thread(readings, server.metrics), server.process.cpu_s(), Client(server)
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for chat in load:
            group.create_task(client.lead(chat))
    took, cpu = time.perf_counter() - begun, server.process.cpu_s() - cpu
    locks = between(before, await asyncio.to_thread(readings, server.metrics))
    seen, total = client.seen, reduce(add, locks.values(), Reading())
    spread = [
        1e3 * float(np.percentile(getattr(seen, name) or [0.0], at)) for name in MILLISECONDS for at in (50, 99)
    ]  # fmt: skip
    return Round(
        seen.tokens / took, len(seen.latency) / took, *spread, 1e3 * cpu / seen.tokens,
        total.waited / sum(seen.latency + seen.tool), total.contended / max(total.acquisitions, 1),
        1e3 * total.wait(0.99),
    ), locks, seen  # fmt: skip


@dataclass(slots=True)
class Side:
    """What one server made of all rounds."""

    rounds: list[Round] = field(default_factory=list)
    locks: Readings = field(default_factory=dict)
    peak_bytes: int = 0
    requests: int = 0

    def add(self, one: Round, locks: Readings, seen: Seen) -> None:
        self.rounds.append(one)
        self.requests += len(seen.latency) + len(seen.tool)
        self.locks = {name: reading + self.locks.get(name, Reading()) for name, reading in locks.items()}

    def of(self, name: str) -> list[float]:
        return [getattr(one, name) for one in self.rounds]


@contextlib.asynccontextmanager
async def started(args: argparse.Namespace, folder: Path) -> AsyncIterator[dict[str, ChatServer]]:
    """Both servers with the same options."""
    config = folder / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"echo": {"command": sys.executable, "args": [str(ECHO)]}}}))
    adapters = await asyncio.to_thread(write_adapters, args.model, folder, args.adapters, RANK)
    options = [
        "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--model", f"{MODEL}={args.model}",
        "--mcp-config", str(config), "--max-slots", str(args.slots), "--max-context", str(args.context),
        "--threads", str(args.threads), "--compute", args.compute, "--max-adapter-rank", str(RANK),
        *(word for name, path in adapters.items() for word in ("--adapter", f"{name}={path}")),
    ]  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(chat_server(module, options, folder / f"{name}.log"))
            for name, module in MODULES.items()
        }


async def measure(args: argparse.Namespace) -> tuple[dict[str, Side], float]:
    """Both sides, and the part of answers that were the same text from both."""
    sides, same = {name: Side() for name in MODULES}, []
    adapters = tuple(f"adapter{number}" for number in range(args.adapters))
    with tempfile.TemporaryDirectory() as folder:
        async with started(args, Path(folder)) as servers:
            for number in range(-1, args.rounds):  # the first warms up
                load = chats(args.chats, args.seed + number, adapters)
                texts = []
                for name in sorted(servers, reverse=bool(number % 2)):
                    one, locks, seen = await measured(servers[name], load)
                    texts.append(seen.texts)
                    if number >= 0:
                        sides[name].add(one, locks, seen)
                        print(f"round {number + 1}: {name} {one.tokens_per_second:.0f} tok/s, p99 "
                              f"{one.latency_p99:.0f} ms, lock wait {one.lock_wait_share:.3%}",
                              file=sys.stderr, flush=True)  # fmt: skip
                same.append(np.mean([texts[0].get(key) == text for key, text in texts[1].items()]))
            for name, server in servers.items():
                sides[name].peak_bytes = server.peak_bytes()
    return sides, float(np.mean(same))


def bytes_each(make: Callable[[], object], count: int = 1000) -> float:
    """What Python's own accounting says that one takes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [make() for _ in range(count)]
        return (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    finally:
        tracemalloc.stop()


def table(sides: dict[str, Side]) -> str:
    """Medians of the rounds with the least and the most, and of the rounds' ratios with their quartiles."""
    lines = ["| | plain | narthex | narthex / plain |", "|---|---|---|---|"]
    for name in Round.__dataclass_fields__:
        theirs, ours = sides[PLAIN].of(name), sides[NARTHEX].of(name)
        cells = [f"{median(values):.4g} ({min(values):.4g} to {max(values):.4g})" for values in (theirs, ours)]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} | {between_quartiles(ratios(sides, name))} |")
    peaks = [sides[name].peak_bytes / 2**20 for name in (PLAIN, NARTHEX)]
    lines.append(f"| peak MiB | {peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[1] / peaks[0]:.3f} |")
    return "\n".join(lines)


def between_quartiles(values: list[float]) -> str:
    if not values:
        return "-"
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def lock_table(side: Side) -> str:
    """All rounds together, lock by lock; waits in microseconds."""
    lines = [
        "| lock | acquisitions | a request | contended | wait p50 | p99 | p50 of those that waited | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, lock in sorted(side.locks.items()):
        waits = [1e6 * seconds for seconds in (lock.wait(0.5), lock.wait(0.99))]
        waits += [1e6 * lock.wait_if_any(at) for at in (0.5, 0.99)]
        lines.append(f"| {name} | {lock.acquisitions:.0f} | {lock.acquisitions / side.requests:.1f} | "
                     f"{lock.contended / max(lock.acquisitions, 1):.3%} | "
                     f"{' | '.join(f'{wait:.3g}' for wait in waits)} |")  # fmt: skip
    return "\n".join(lines)


def ratios(sides: dict[str, Side], name: str) -> list[float]:
    """Of the rounds, narthex's figure in parts of the plain one's; a round without any is left out."""
    pairs = zip(sides[NARTHEX].of(name), sides[PLAIN].of(name), strict=True)
    return [ours / theirs for ours, theirs in pairs if theirs]


def gates(sides: dict[str, Side]) -> dict[str, str]:
    """What is promised and what was hoped for: met, MISSED, or even, where the rounds cannot tell it from equal."""
    ours = sides[NARTHEX]
    contention = {name: median(side.of("contention")) for name, side in sides.items()}
    more = median(ratios(sides, "tokens_per_second")) - 1
    waits = ours.locks.values()
    facts = {
        "lock wait at most 1 % of the time of requests": median(ours.of("lock_wait_share")) <= 0.01,
        "lock wait p99 of each lock below 1 ms": all(lock.wait(0.99) < 1e-3 for lock in waits),
        "the same of those acquisitions alone that waited": all(lock.wait_if_any(0.99) <= 1e-3 for lock in waits),
    }
    hopes = {
        "hoped for: contention lower by 10 % at least": contention[NARTHEX] <= 0.9 * contention[PLAIN],
        "hoped for: throughput higher by 12 % at least": more >= 0.12,
    }
    judged = {
        "throughput no worse": no_worse(ratios(sides, "tokens_per_second")),
        "p99 latency no worse": no_worse([1 / one for one in ratios(sides, "latency_p99")]),
    }
    told = {gate: "met" if fact else "MISSED" for gate, fact in (facts | hopes).items()}
    return {gate: told[gate] for gate in facts} | judged | {gate: told[gate] for gate in hopes}


def no_worse(better: list[float]) -> str:
    """By how many times better narthex was in each round: even where the middle half of them encloses 1."""
    low, high = np.percentile(better, (25, 75))
    return "met" if low >= 1 or median(better) >= 1 else "even" if high >= 1 else "MISSED"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench promise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=DEMO)
    parser.add_argument("--chats", type=int, default=50, help="at once")
    parser.add_argument("--adapters", type=int, default=2)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1, help="of each server's engine")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    sides, same = uvloop.run(measure(args))
    print(f"{args.model.stem}: {args.chats} chats at once, {args.slots} slots, {args.rounds} rounds; {same:.0%} of "
          f"answers the same text; load average {os.getloadavg()[0]:.1f}\n\n{table(sides)}")  # fmt: skip
    for name, side in sides.items():
        print(f"\n{name}:\n\n{lock_table(side)}")
    sizes = {mode: bytes_each(lambda mode=mode: Locks(mode).mutex("lock")) for mode in ("metered", "plain")}
    print("\nbytes of a lock: " + ", ".join(f"{mode} {size:.0f}" for mode, size in sizes.items()) + "\n")
    for gate, met in gates(sides).items():
        print(f"{met:6} {gate}")
    if args.json:
        args.json.write_text(json.dumps({name: asdict(side) for name, side in sides.items()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
