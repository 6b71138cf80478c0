"""narthex beside other programs on the same files, in turns: tokens/s, time to the first token, memory.

    python -m bench peers [--models 135m-q4_0,1b-q8_0] [--peers narthex,llama.cpp] [--rounds 5] [--quick] [--json FILE]

Each peer is installed in an environment of its own and runs as a process that keeps the model loaded; in every round
each of them in turn takes each measurement once, while the others sleep. Medians count. All get the same random
prompts, decode greedily and do not stop early. Decode counts from when every sequence has its first token; its prompts
are the same in every round, and peers that keep them in their cache need not compute them again, whereas those of
prefill and first token are new each time. What is measured while other programs compute is measured again, and the
table says how much they took: threads that wait for each other by spinning, as llama.cpp's do, lose far more by it
than others.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import make_gguf
from bench.peers.catalogue import DEFAULT, catalogue
from bench.peers.measurement import Measurement
from bench.peers.peer import Peer, PeerKind, WorkerFailed
from bench.peers.results import Cell, Results
from bench.shapes import SHAPES

MODELS = ("135m-q4_0", "135m-q8_0", "1b-q4_0", "1b-q8_0")
BATCHES, CONTEXTS, PROMPT, SHORT = (1, 4, 8, 16), (64, 512), 512, 16


def cells(batches: list[int], contexts: list[int]) -> list[Cell]:
    return [
        *(Cell("decode", batch, context) for context in contexts for batch in batches),
        Cell("prefill", 1, PROMPT),
        Cell("first", 1, SHORT),
    ]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of a cell; `others` is how many cores other processes used meanwhile."""

    value: float
    peak_bytes: int
    others: float


def sample(peer: Peer, cell: Cell, tokens: int, seed: int) -> Sample:
    if cell.measure == "decode":
        figures, others = peer.measure(Measurement(cell.batch, cell.context, tokens))
        return Sample(figures.decode, figures.peak_bytes, others)
    figures, others = peer.measure(Measurement(cell.batch, cell.context, 1, seed))
    value = (
        figures.first_seconds * 1e3 if cell.measure == "first" else cell.batch * cell.context / figures.first_seconds
    )
    return Sample(value, figures.peak_bytes, others)


def least_disturbed(peer: Peer, cell: Cell, args: argparse.Namespace, number: int) -> Sample:
    """Measure; again, a few times at most, while others use more than they may."""
    best = sample(peer, cell, args.tokens, number)
    for again in range(1, args.retries + 1):
        if best.others <= args.others:
            break
        other = sample(peer, cell, args.tokens, number + again * 1000)
        best = min(best, other, key=lambda each: each.others)
    return best


def compare(path: Path, kinds: list[PeerKind], args: argparse.Namespace) -> Results:
    grid = cells(args.batches, args.contexts)
    size = max(PROMPT + 1, max(args.contexts) + args.tokens)
    shared = (str(path), "--slots", str(max(args.batches)), "--size", str(size), "--threads", str(args.threads))
    peers: list[Peer] = []
    try:
        for kind in kinds:
            try:
                peers.append(Peer(kind, shared, args.cache / f"{kind.name}.log"))
            except WorkerFailed as failure:
                print(f"left out: {failure}", flush=True)
        results = Results(path.stem, {peer.kind.name: peer.loaded for peer in peers})
        deadline = time.monotonic() + args.seconds
        for number, cell, peer in turns(args.rounds, grid, peers):
            if time.monotonic() > deadline:
                print(f"{path.stem}: stopped in round {number} after {args.seconds:.0f} s", flush=True)
                break
            if cell.batch * cell.context <= peer.kind.prompt_tokens:
                taken = least_disturbed(peer, cell, args, number)
                if number:
                    results.add(peer.kind.name, cell, taken.value, taken.peak_bytes, taken.others)
    finally:
        for peer in peers:
            peer.stop()
    return results


def turns(rounds: int, grid: list[Cell], peers: list[Peer]) -> Iterator[tuple[int, Cell, Peer]]:
    """Every peer at every cell in every round, another one first each time; round 0 warms up."""
    for number in range(rounds + 1):
        first = number % len(peers) if peers else 0
        for cell in grid:
            for peer in peers[first:] + peers[:first]:
                yield number, cell, peer


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(
        "bench peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="files, made where they are missing")
    parser.add_argument("--peers", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=numbers, default=list(BATCHES))
    parser.add_argument("--contexts", type=numbers, default=list(CONTEXTS))
    parser.add_argument("--tokens", type=int, default=32, help="how many are generated for a measurement of decode")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--others", type=float, default=0.15, help="cores that other processes may use meanwhile")
    parser.add_argument("--retries", type=int, default=2, help="how often a disturbed measurement is repeated")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of measuring for each model, at most")
    parser.add_argument("--quick", action="store_true", help="3 rounds, batches 1 and 8, 64 tokens of context")
    parser.add_argument("--cache", type=Path, default=DEFAULT, help="where the peers are installed")
    parser.add_argument("--folder", type=Path, help="where the models are; default: models in the cache")
    parser.add_argument("--json", type=Path, help="also write every figure there")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.batches, args.contexts = 3, [1, 8], [64]
    known = catalogue(args.cache, args.threads)
    names = args.peers.split(",") if args.peers else list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"{unknown[0]} is none of {', '.join(known)}")
    args.cache.mkdir(parents=True, exist_ok=True)
    kinds = [known[name] for name in names]
    for kind in kinds:
        kind.environment.install()
    every = []
    for model in args.models.split(","):
        path = (args.folder or args.cache / "models") / f"{model}.gguf"
        if not path.exists():
            shape, _, form = model.partition("-")
            path.parent.mkdir(parents=True, exist_ok=True)
            make_gguf.write(path, form.upper(), SHAPES[shape])
        results = compare(path, kinds, args)
        print(f"\n{results.table([name for name in names if name.startswith('narthex')])}\n", flush=True)
        every.append(results.figures())
    for kind in kinds:
        if kind.note:
            print(f"{kind.name}: {kind.note}")
    print(
        f"tokens/s, of the first token ms; medians (least, most), {args.rounds} rounds at most, {args.threads} threads"
    )
    if args.json:
        args.json.write_text(json.dumps(every, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
