"""What gaps between decoding rows cost in CPU time: dead rows, a run for each range, or a copy that closes them.

    python -m bench make_gguf /tmp/135m.gguf
    python bench/slot_range.py /tmp/135m.gguf [--slots 8] [--contexts 64,512,2048] [--compute auto] [--threads 1]

The engine's policy rests on the figures in docs/adr/0006-slot-range.md.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from narthex_server.engine.decoder import DecoderSession
from narthex_server.loading import LoadOptions, load


def milliseconds(run: Callable[[], object], repeat: int = 15) -> float:
    """CPU time of the best of some runs, so that other work on the machine disturbs little; one more warms up."""
    run()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times) * 1e3


def decode(session: DecoderSession, ranges: list[tuple[int, int]], context: int) -> float:
    """One step over ranges of (first, count) rows that all hold `context` tokens."""

    def step() -> None:
        for first, count in ranges:
            session.decode(first, np.ones(count, np.int64), np.full(count, context, np.int32), np.arange(count))

    return milliseconds(step)


def ranges_of(slots: list[int]) -> list[tuple[int, int]]:
    """Neighbouring slots together."""
    found: list[tuple[int, int]] = []
    for slot in slots:
        if found and sum(found[-1]) == slot:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((slot, 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--contexts", default="64,512,2048")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    contexts, slots = [int(text) for text in args.contexts.split(",")], args.slots
    session = load(args.model, LoadOptions(args.compute, args.threads, slots, max(contexts) + 64)).session
    scenes = {
        "ends": [0, slots - 1],
        "every other": list(range(0, slots, 2)),
        "one missing": [slot for slot in range(slots) if slot != slots // 2],
    }
    for context in contexts:
        chunk = np.ones(min(context, 256), np.int64)
        for slot in range(slots):
            for past in range(0, context, len(chunk)):
                session.prefill(slot, chunk, past, np.empty(0, np.int64), context)
        rows = {count: decode(session, [(0, count)], context) for count in (1, 2, 4, slots - 1, slots)}
        copy = milliseconds(lambda context=context: session.copy(0, 1, context))  # type: ignore[misc]
        row = (rows[slots] - rows[1]) / (slots - 1)
        print(f"\ncontext {context}: step ms by rows " + ", ".join(f"{n}: {ms:.1f}" for n, ms in rows.items()))
        print(
            f"a copy {copy:.2f} ms, {copy / context * 1e3:.1f} µs/token; a dead row = {row / copy * context:.0f} tokens"
        )
        print(
            f"{'active of ' + str(slots):14}{'dead rows':>11}{'ranges':>9}{'compact':>9}   ms; moves, steps until paid"
        )
        for name, active in scenes.items():
            dead, split = rows[slots], decode(session, ranges_of(active), context)
            tight, moves = decode(session, [(0, len(active))], context), sum(slot >= len(active) for slot in active)
            gain = min(dead, split) - tight
            paid = f"{2 * moves * copy / gain:.1f}" if gain > 0 else "never"  # what a gap keeps moves too
            print(f"{name:14}{dead:11.1f}{split:9.1f}{tight:9.1f}   {moves} {paid}")
    session.close()


if __name__ == "__main__":
    main()
