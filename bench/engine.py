"""Tokens a second of a model through the engine: decode and prefill at several batch sizes.

    python bench/engine.py [MODEL] [--batches 1,4,8,16] [--prompt 512] [--context 64] [--tokens 64] [--json FILE]

Decode: each request has `context` prompt tokens and generates `tokens`; counted from when all have their first token.
Prefill: each request has `prompt` tokens and generates one. Every prompt is random, so that no cached prefix helps.
"""

import argparse
import asyncio
import json
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
    """Measures on one started engine; takes the best of `repeat` rounds, which other work disturbs least."""

    def __init__(self, handle: EngineHandle, repeat: int) -> None:
        self._handle = handle
        self._repeat = repeat
        self._rng = np.random.default_rng(0)
        self._number = 0

    async def row(self, batch: int, prompt: int, context: int, tokens: int) -> Row:
        decode = min([await self._decode(batch, context, tokens) for _ in range(self._repeat)])
        prefill = min([await self._prefill(batch, prompt) for _ in range(self._repeat)])
        steps = tokens - 1
        return Row(batch, batch * steps / decode, decode / steps * 1e3, batch * prompt / prefill, prefill / batch * 1e3)

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


async def measure(args: argparse.Namespace) -> list[Row]:
    batches = [int(text) for text in args.batches.split(",")]
    size = max(args.prompt + 1, args.context + args.tokens)
    model = load(args.model, LoadOptions(args.compute, args.threads, max(batches), size, default_cache()))
    print(f"{args.model.name}: {model.parameters / 1e6:.0f}M parameters, {model.quantization}, compute {model.compute}")
    prompt = min(args.prompt, model.max_context - 1)
    tokens = min(args.tokens, model.max_context - args.context)
    handle = EngineHandle(model.session)
    handle.start()
    try:
        bench = Bench(handle, args.repeat)
        await bench.row(1, prompt, args.context, 4)  # warm up
        print(f"{'batch':>5}{'decode tok/s':>14}{'ms a step':>11}{'prefill tok/s':>15}{'ms a prompt':>13}")
        rows = []
        for batch in batches:
            row = await bench.row(batch, prompt, args.context, tokens)
            print(
                f"{batch:5}{row.decode_tokens_per_second:14.0f}{row.step_milliseconds:11.2f}"
                f"{row.prefill_tokens_per_second:15.0f}{row.first_token_milliseconds:13.1f}"
            )
            rows.append(row)
        return rows
    finally:
        await handle.stop(0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=DEMO)
    parser.add_argument("--batches", default="1,4,8,16")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args(argv)
    rows = asyncio.run(measure(args))
    figures = json.dumps({"model": args.model.name, "compute": args.compute, "rows": [asdict(row) for row in rows]})
    if args.json:
        args.json.write_text(figures)
    else:
        print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
