"""What a constraint costs: tokens a second of one batch with and without it, in turns, through the engine.

    python bench/constraints.py MODEL [--batch 8] [--tokens 96] [--rounds 5]

Every request samples at temperature 1 from a random prompt; constrained ones write an endless array of objects, so that
both kinds run for as many tokens. Prints the median of all rounds and the ratio.
"""

import argparse
import asyncio
import statistics
import time
from contextlib import aclosing
from pathlib import Path

import numpy as np
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.request import EngineRequest, Sampling, Tokens
from narthex_server.loading import LoadedModel, LoadOptions, load
from narthex_server.text.constraint import JsonSchema
from narthex_server.text.grammar import Grammars, Rules

SCHEMA = JsonSchema(
    '{"type": "array", "minItems": 1000, "items": {"type": "object", "properties": {"name": {"type": "string"}, '
    '"tags": {"type": "array", "items": {"type": "string"}}, "size": {"type": "number"}}, '
    '"required": ["name", "tags", "size"], "additionalProperties": false}}'
)


async def decode(handle: EngineHandle, requests: list[EngineRequest]) -> float:
    """Tokens a second of all, from when each has its first."""
    first = asyncio.Barrier(len(requests) + 1)

    async def one(request: EngineRequest) -> int:
        count = 0
        async with aclosing(handle.generate(request)) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    count += len(event.ids)
                    if count == len(event.ids):
                        await first.wait()
        return count - 1

    tasks = [asyncio.create_task(one(request)) for request in requests]
    await first.wait()
    begun = time.perf_counter()
    return sum(await asyncio.gather(*tasks)) / (time.perf_counter() - begun)


async def measure(model: LoadedModel, batch: int, tokens: int, rounds: int) -> None:
    handle = EngineHandle(model.session)
    handle.start()
    grammars = Grammars(model.text.tokenizer, model.text.eos_ids or frozenset({0}), model.vocab_size)
    rules, rng = Rules(SCHEMA.lark()), np.random.default_rng(0)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * (rounds + 1)):
        constrained = bool(number % 2)
        requests = [
            EngineRequest(
                f"{number}-{index}",
                tuple(rng.integers(3, 256, 64).tolist()),
                tokens,
                sampling=Sampling(seed=index),
                grammar=grammars.compile(rules, "constraint") if constrained else None,
            )
            for index in range(batch)
        ]
        rate = await decode(handle, requests)
        if number >= 2:
            rates[constrained].append(rate)
    await handle.stop(0)
    free, held = statistics.median(rates[False]), statistics.median(rates[True])
    print(f"batch {batch}: {free:.1f} tok/s free, {held:.1f} tok/s constrained: {1 - held / free:.1%} slower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = load(arguments.model, LoadOptions(slots=arguments.batch, max_context=512))
    asyncio.run(measure(model, arguments.batch, arguments.tokens, arguments.rounds))


if __name__ == "__main__":
    main()
