"""Tokens a second of a model through the engine: decode and prefill at several batch sizes.

    python bench/engine.py [MODEL ...] [--device cuda] [--batches 1,4,8,16] [--prompt 512] [--context 64] [--tokens 64]
                           [--json FILE]

Decode: each request has `context` prompt tokens and generates `tokens`; counted from when all have their first token.
Prefill: each request has `prompt` tokens and generates one. Every prompt is random, so that no cached prefix helps.
Several models take turns in every round, so that what else the machine does falls on all of them alike.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.request import EngineRequest, Sampling, Tokens
from narthex_server.loading import LoadOptions, default_cache, load

DEMO = Path(__file__).parent.parent / "models/demo/tiny-tool-demo-q8_0.gguf"


@dataclass(frozen=True, slots=True)
class Row:
    batch: int
    decode_tokens_per_second: float
    step_milliseconds: float
    prefill_tokens_per_second: float
    first_token_milliseconds: float


class Bench:
    """Measures on one started engine; keeps the best of all rounds, which other work disturbs least."""

    def __init__(self, name: str, handle: EngineHandle, prompt: int, context: int, tokens: int) -> None:
        self.name = name
        self._handle = handle
        self._prompt, self._context, self._tokens = prompt, context, tokens
        self._rng = np.random.default_rng(0)
        self._number = 0
        self._best: dict[int, tuple[float, float]] = {}

    async def round(self, batch: int) -> None:
        """Measure once."""
        decode, prefill = self._best.get(batch, (math.inf, math.inf))
        decode = min(decode, await self._decode(batch, self._context, self._tokens))
        self._best[batch] = decode, min(prefill, await self._prefill(batch, self._prompt))

    def row(self, batch: int) -> Row:
        (decode, prefill), steps = self._best[batch], self._tokens - 1
        return Row(
            batch, batch * steps / decode, decode / steps * 1e3, batch * self._prompt / prefill, prefill / batch * 1e3
        )

    async def stop(self) -> None:
        await self._handle.stop(0)

    async def _decode(self, batch: int, context: int, tokens: int) -> float:
        """Seconds from the last request's first token to the last token, less what was generated before."""
        runs = await asyncio.gather(*(self._times(context, tokens) for _ in range(batch)))
        begun = max(times[0] for times in runs)
        left = sum(time > begun for times in runs for time in times)
        took = max(times[-1] for times in runs) - begun
        return took * batch * (tokens - 1) / left

    async def _prefill(self, batch: int, prompt: int) -> float:
        start = time.perf_counter()
        runs = await asyncio.gather(*(self._times(prompt, 1) for _ in range(batch)))
        return max(times[-1] for times in runs) - start

    async def _times(self, prompt: int, tokens: int) -> list[float]:
        """When each token came."""
        self._number += 1
        ids = tuple(self._rng.integers(self._handle.vocab_size, size=prompt).tolist())
        times: list[float] = []
        request = EngineRequest(str(self._number), ids, tokens, sampling=Sampling(temperature=0))
        async with aclosing(self._handle.generate(request)) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    times += [time.perf_counter()] * len(event.ids)
        return times


def start(path: Path, args: argparse.Namespace, slots: int) -> Bench:
    size = max(args.prompt + 1, args.context + args.tokens)
    model = load(path, LoadOptions(args.compute, args.threads, slots, size, default_cache(), device=args.device))
    facts = f"{model.parameters / 1e6:.0f}M parameters, {model.quantization}, compute {model.compute} on {model.device}"
    print(f"{path.name}: {facts}")
    handle = EngineHandle(model.session)
    handle.start()
    prompt = min(args.prompt, model.max_context - 1)
    return Bench(path.name, handle, prompt, args.context, min(args.tokens, model.max_context - args.context))


async def measure(args: argparse.Namespace) -> dict[str, list[Row]]:
    batches = [int(text) for text in args.batches.split(",")]
    benches = [start(path, args, max(batches)) for path in args.models or [DEMO]]
    try:
        for bench in benches:
            await bench.round(1)  # warm up
        for batch in batches:
            for _ in range(args.repeat):
                for bench in benches:
                    await bench.round(batch)
    finally:
        for bench in benches:
            await bench.stop()
    rows = {bench.name: [bench.row(batch) for batch in batches] for bench in benches}
    first = rows[benches[0].name]
    columns = ("decode tok/s", 14), ("", 7), ("ms a step", 11), ("prefill tok/s", 15), ("", 7), ("ms a prompt", 13)
    print(f"{'model':24}{'batch':>5}", *(f"{title:>{width}}" for title, width in columns), sep="")
    for name, measured in rows.items():
        for row, peer in zip(measured, first, strict=True):
            print(
                f"{name[:23]:24}{row.batch:5}{row.decode_tokens_per_second:14.0f}"
                f"{row.decode_tokens_per_second / peer.decode_tokens_per_second:6.2f}x{row.step_milliseconds:11.2f}"
                f"{row.prefill_tokens_per_second:15.0f}"
                f"{row.prefill_tokens_per_second / peer.prefill_tokens_per_second:6.2f}x"
                f"{row.first_token_milliseconds:13.1f}"
            )
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--batches", default="1,4,8,16")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args(argv)
    rows = asyncio.run(measure(args))
    figures = json.dumps(
        [
            {"model": name, "compute": args.compute, "device": args.device, "rows": [asdict(row) for row in measured]}
            for name, measured in rows.items()
        ]
    )
    if args.json:
        args.json.write_text(figures)
    else:
        print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
