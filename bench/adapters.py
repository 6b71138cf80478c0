"""What adapters cost: decode tokens/s of one model without room for them, with room, and with rows that use them.

    python bench/adapters.py MODEL [--batches 1,8] [--rank 16] [--steps 64] [--rounds 5]

The sessions decode in turns, so that other work on the machine disturbs all of them alike; the best round counts.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from narthex_server.loading import LoadOptions, load
from narthex_server.runtime.adapter_bank import Limits
from narthex_server.runtime.session import Adapted, OrtDecoderSession
from narthex_server.weights.adapters import AdapterWeights, LowRank

CONTEXT = 64


def random_adapter(adapted: Adapted, rank: int, seed: int) -> AdapterWeights:
    """Factors for every linear layer inside the model's layers."""
    rng = np.random.default_rng(seed)
    modules = {}
    inputs = adapted.bank.inputs(()).buffers
    for name, array in inputs.items():
        if ".layers." in name and name.endswith(".a"):
            module, columns = name.removesuffix(".a"), array.shape[1]
            rows = inputs[f"{module}.b"].shape[1]
            factors = (rng.normal(0, 0.01, (rank, width)).astype(np.float32) for width in (columns, rows))
            modules[module] = LowRank(*factors)
    return AdapterWeights(rank, 1.0, modules)


def seconds(session: OrtDecoderSession, batch: int, steps: int) -> float:
    live = np.arange(batch)
    start = time.perf_counter()
    for step in range(steps):
        session.decode(0, np.full(batch, 5), np.full(batch, CONTEXT + step, np.int32), live)
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    batches = [int(text) for text in args.batches.split(",")]
    options = LoadOptions(slots=max(batches), max_context=CONTEXT + args.steps + 1)
    plain = load(args.model, options).session
    start = time.perf_counter()
    adapting = load(args.model, replace(options, adapters=Limits(4, args.rank))).session
    print(f"load with room for adapters: {time.perf_counter() - start:.1f} s")
    assert isinstance(plain, OrtDecoderSession) and isinstance(adapting, OrtDecoderSession) and adapting.adapters
    for place in range(2):
        adapting.adapters.load(place, random_adapter(adapting.adapters, args.rank, place))
    print(f"{'batch':>5}{'none':>9}{'unused':>9}{'mixed':>9}{'all':>9}   tok/s; ratios to none")
    for batch in batches:
        scenes = {
            "none": (plain, 0),
            "unused": (adapting, 0),
            "mixed": (adapting, batch // 2),
            "all": (adapting, batch),
        }
        best = dict.fromkeys(scenes, 1e9)
        for _ in range(args.rounds):
            for name, (session, adapted) in scenes.items():
                for slot in range(batch if session is adapting else 0):
                    blend = np.eye(4, dtype=np.float32)[slot % 2] if slot < adapted else np.zeros(4, np.float32)
                    adapting.adapters.choose(slot, blend)
                best[name] = min(best[name], seconds(session, batch, args.steps))
        ratios = ", ".join(f"{name} {best['none'] / best[name]:.2f}" for name in scenes if name != "none")
        print(f"{batch:5}" + "".join(f"{batch / value:9.0f}" for value in best.values()) + f"   {ratios}")


if __name__ == "__main__":
    main()
