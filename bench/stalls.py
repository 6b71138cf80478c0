"""What a long prompt does to running streams: the time between their tokens before it comes and while it is computed.

    python bench/stalls.py [MODEL] [--streams 1,4] [--prompt 4000]

Prints medians and 99th percentiles in milliseconds, and how long the prompt took to its first token beside the streams
and without them; all of one thread's CPU time, which other work disturbs least.
"""

import argparse
import asyncio
import sys
import time
from contextlib import aclosing
from pathlib import Path

import numpy as np
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Sampling, Tokens
from narthex_server.loading import LoadOptions, default_cache, load

DEMO = Path(__file__).parent.parent / "models/demo/tiny-tool-demo-q8_0.gguf"
CONTEXT = 64


class Load:
    """Streams of one engine, and when their tokens came."""

    def __init__(self, handle: EngineHandle, seed: int) -> None:
        self._handle = handle
        self._rng = np.random.default_rng(seed)
        self._number = 0
        self.times: list[list[float]] = []

    async def stream(self, prompt: int, tokens: int) -> None:
        self._number += 1
        ids = tuple(self._rng.integers(self._handle.vocab_size, size=prompt).tolist())
        request = EngineRequest(str(self._number), ids, tokens, sampling=Sampling(temperature=1.0, seed=self._number))
        times: list[float] = []
        self.times.append(times)
        async with aclosing(self._handle.generate(request)) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    times += [time.process_time()] * len(event.ids)

    async def first_token(self, prompt: int) -> float:
        """Seconds that a prompt takes to its first token."""
        start = time.process_time()
        await self.stream(prompt, 1)
        self.times.pop()
        return time.process_time() - start

    def gaps(self, since: float, until: float) -> np.ndarray:
        """Milliseconds between two tokens of a stream."""
        found = [np.diff([at for at in times if since <= at <= until]) for times in self.times]
        return np.concatenate(found) * 1e3


async def measure(handle: EngineHandle, streams: int, prompt: int) -> None:
    load = Load(handle, streams)
    alone = await load.first_token(prompt)
    running = [asyncio.create_task(load.stream(CONTEXT, handle.max_context - CONTEXT)) for _ in range(streams)]
    await asyncio.sleep(1)
    begun = time.process_time()
    await asyncio.sleep(4)
    came = time.process_time()
    beside = await load.first_token(prompt)
    calm, busy = load.gaps(begun, came), load.gaps(came, time.process_time())
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    before, after = (np.percentile(gaps, (50, 99)) for gaps in (calm, busy))
    print(
        f"{streams:7}{before[0]:11.1f}{before[1]:8.1f}{after[0]:11.1f}{after[1]:8.1f}{after[1] / before[1]:9.2f}x"
        f"{alone:12.2f}{beside:12.2f}",
        flush=True,
    )


async def run(args: argparse.Namespace) -> None:
    streams = [int(text) for text in args.streams.split(",")]
    options = LoadOptions(args.compute, args.threads, max(streams) + 1, args.prompt + 300, default_cache())
    model = load(args.model, options)
    handle = EngineHandle(model.session, EngineOptions(speculate=False, longest_pause=args.longest_pause))
    handle.start()
    print(f"{args.model.name}, compute {model.compute}, a prompt of {args.prompt} tokens")
    print("streams   calm p50     p99   busy p50     p99   p99 ratio  TTFT alone  TTFT beside (s)")
    try:
        for count in streams:
            await measure(handle, count, args.prompt)
    finally:
        await handle.stop(0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench stalls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=DEMO)
    parser.add_argument("--streams", default="1,4")
    parser.add_argument("--prompt", type=int, default=4000)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--longest-pause", type=float, default=EngineOptions().longest_pause)
    asyncio.run(run(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
