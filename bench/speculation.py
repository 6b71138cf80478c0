"""What drafts by prompt lookup gain where a text repeats itself, and cost where it does not.

    python bench/speculation.py [MODEL] [--batches 1,4] [--tokens 128]

`quoting` asks for a text that the prompt contains several times, by a grammar that allows no other token: so any model
says it, at its own speed. `random` draws at a high temperature after a random prompt: no draft is right.

Tokens a second of one thread's CPU time, which other work disturbs least, with drafts and without, in turns, the best
of several rounds; guessed and right of all rounds.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np
from narthex_server.engine.decoder import Logits
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Finished, Sampling, Usage
from narthex_server.loading import LoadOptions, default_cache, load

DEMO = Path(__file__).parent.parent / "models/demo/tiny-tool-demo-q8_0.gguf"
QUOTED = 48
"""Tokens of the text that is quoted again and again."""


class Recite:
    """A grammar that allows one text."""

    def __init__(self, text: Sequence[int]) -> None:
        self._text = iter(text)
        self._next = next(self._text)

    def mask(self, logits: Logits) -> None:
        kept = logits[self._next]
        logits.fill(-np.inf)
        logits[self._next] = kept

    def accept(self, token: int) -> None:
        self._next = next(self._text, token)


class Case:
    """One engine, with drafts or without."""

    def __init__(self, model: Path, args: argparse.Namespace, slots: int, speculate: bool) -> None:
        size = QUOTED * 3 + args.tokens
        session = load(model, LoadOptions(args.compute, args.threads, slots, size, default_cache())).session
        self.handle = EngineHandle(session, EngineOptions(speculate=speculate))
        self.handle.start()
        self.best: dict[tuple[str, int], float] = {}
        self.usage: dict[tuple[str, int], tuple[int, int]] = {}

    async def round(self, kind: str, batch: int, tokens: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        begun = time.process_time()
        usages = await asyncio.gather(*(self._run(f"{kind}{n}", kind, tokens, rng) for n in range(batch)))
        rate = batch * tokens / (time.process_time() - begun)
        self.best[kind, batch] = max(rate, self.best.get((kind, batch), 0.0))
        guessed, right = self.usage.get((kind, batch), (0, 0))
        self.usage[kind, batch] = (
            guessed + sum(usage.speculated_tokens for usage in usages),
            right + sum(usage.accepted_tokens for usage in usages),
        )

    async def _run(self, name: str, kind: str, tokens: int, rng: np.random.Generator) -> Usage:
        prompt = rng.integers(self.handle.vocab_size, size=QUOTED).tolist()
        grammar = None
        if kind == "quoting":
            grammar = Recite((prompt * (tokens // QUOTED + 1))[:tokens])
            prompt = prompt * 2
        sampling = Sampling(0.0 if grammar else 5.0, seed=1)
        request = EngineRequest(name, tuple(prompt), tokens, sampling=sampling, grammar=grammar)
        async with aclosing(self.handle.generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.usage
        raise RuntimeError("no end")


async def measure(args: argparse.Namespace) -> None:
    batches = [int(text) for text in args.batches.split(",")]
    drafted, plain = (Case(args.model, args, max(batches), speculate) for speculate in (True, False))
    print(f"{args.model.name}\n{'':10}{'batch':>6}{'drafts tok/s':>14}{'without':>10}{'':>8}{'guessed':>9}{'right':>7}")
    try:
        for kind in ("quoting", "random"):
            for batch in batches:
                for seed in range(args.repeat):
                    for case in (drafted, plain):
                        await case.round(kind, batch, args.tokens, seed)
                rate, base = (case.best[kind, batch] for case in (drafted, plain))
                guessed, right = drafted.usage[kind, batch]
                print(f"{kind:10}{batch:6}{rate:14.0f}{base:10.0f}{rate / base:7.2f}x{guessed:9}{right:7}", flush=True)
    finally:
        for case in (drafted, plain):
            await case.handle.stop(0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench speculation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=DEMO)
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    asyncio.run(measure(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
