"""The whole stack against the bare engine: decode tokens/s of the same streams through gRPC and through the handle.

    python -m bench stack [MODEL] [--batch 16] [--context 64] [--tokens 128] [--rounds 5]

Server, engine and client are processes of their own and take turns; the client's cost is in the server's figure.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from statistics import median

from bench.peers.catalogue import DEFAULT, NARTHEX, catalogue
from bench.peers.measurement import Measurement, decode_rate
from bench.peers.peer import Peer
from bench.servers.narthex import narthex_server


async def measure(args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Tokens/s of every round: engine, server."""
    size = args.context + args.tokens
    kind = catalogue(args.cache, args.threads)[NARTHEX]
    sizes = ("--slots", str(args.batch), "--size", str(size), "--threads", str(args.threads), "--compute", args.compute)
    bare: list[float] = []
    through: list[float] = []
    measurement = Measurement(args.batch, args.context, args.tokens)
    serving = narthex_server(
        args.model, args.batch, size, args.threads, args.compute, 0.04, args.cache / "stack-server.log"
    )
    async with serving as server:
        engine = await asyncio.to_thread(Peer, kind, (str(args.model), *sizes), args.cache / "stack-engine.log")
        try:
            for number in range(args.rounds + 1):  # the first warms up
                figures, _ = await asyncio.to_thread(engine.measure, measurement)
                streams = (server.stream(prompt, args.tokens) for prompt in measurement.prompts())
                rate = decode_rate(await asyncio.gather(*streams))
                if number:
                    bare.append(figures.decode)
                    through.append(rate)
        finally:
            engine.stop()
    return bare, through


def main() -> int:
    parser = argparse.ArgumentParser(
        "bench stack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=DEFAULT / "models/135m-q4_0.gguf")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--cache", type=Path, default=DEFAULT)
    args = parser.parse_args()
    bare, through = asyncio.run(measure(args))
    ratios = [ours / engine for ours, engine in zip(through, bare, strict=True)]
    print(f"engine {median(bare):.0f} tok/s, through gRPC {median(through):.0f}; ratio of the rounds: median "
          f"{median(ratios):.3f}, least {min(ratios):.3f}, most {max(ratios):.3f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
