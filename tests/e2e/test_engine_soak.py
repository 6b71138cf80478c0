"""Everything at once, for a while: arrivals, cancels, deadlines, failing grammars and too little memory."""

import asyncio
import logging
import random
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Sampling
from narthex_server.errors import InternalError
from narthex_server.loading import LoadOptions, load

MODEL = Path(__file__).parents[2] / "models/demo/tiny-tool-demo-q8_0.gguf"
SLACK = 8 << 20
"""Bytes that the allocator may keep of what comes and goes."""


class Fragile:
    """A grammar that allows all and breaks after some tokens."""

    def __init__(self, tokens):
        self.left = tokens

    def mask(self, logits):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("broken on purpose")

    def accept(self, token):
        pass


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def client(handle, rng, stems, until):
    number = 0
    while time.monotonic() < until:
        number += 1
        prompt = (*rng.choice(stems)[: rng.randrange(1, 200)], *(rng.randrange(500) for _ in range(rng.randrange(9))))
        grammar = Fragile(rng.randrange(1, 40)) if rng.random() < 0.15 else None
        sampling = Sampling(rng.choice((0.0, 1.0)), seed=rng.randrange(1 << 40))
        asked = EngineRequest(
            f"{id(rng)}.{number}", prompt, rng.randrange(1, 120), sampling=sampling, grammar=grammar
        )  # fmt: skip
        cancel = rng.randrange(1, 60) if rng.random() < 0.3 else 1000
        try:
            async with asyncio.timeout(rng.choice((0.02, 0.2, 30))), aclosing(handle.generate(asked)) as events:
                async for event in events:
                    cancel -= len(getattr(event, "ids", ()))
                    if cancel < 0:
                        break
        except TimeoutError:
            pass
        except InternalError:
            assert grammar is not None
    return number


@pytest.mark.parametrize("seconds", [2, pytest.param(80, marks=pytest.mark.slow)])
async def test_a_soak_leaves_no_slot_taken_and_memory_flat(seconds, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "narthex_server.worker")  # of thousands of broken grammars
    options = LoadOptions("float32", threads=2, slots=6, max_context=512, cache_dir=tmp_path)
    handle = EngineHandle(load(MODEL, options).session, EngineOptions(64, 64, kv_tokens=420))
    handle.start()
    try:
        seeds = random.Random(9)
        stems = [tuple(seeds.randrange(handle.vocab_size) for _ in range(200)) for _ in range(3)]

        async def soak(seconds):
            until = time.monotonic() + seconds
            clients = [client(handle, random.Random(seeds.random()), stems, until) for _ in range(12)]
            return sum(await asyncio.gather(*clients))

        await soak(seconds / 2)
        before = resident()
        assert await soak(seconds / 2) > 50
        for _ in range(8):  # a machine with other work may not get so far in one
            if handle.snapshot().preemptions:
                break
            await soak(seconds / 2)
        async for _ in handle.generate(EngineRequest("last", (1,), 1)):  # a step later than the last cancel
            pass
        stats = handle.snapshot()
        assert (stats.running, stats.waiting, stats.kv_tokens_used) == (0, 0, 0)
        assert stats.preemptions > 0 and stats.cached_tokens > 0
        assert stats.kv_tokens_kept <= 420
        assert resident() - before < SLACK
    finally:
        await handle.stop(0)
    assert not [record for record in caplog.records if "reset" in record.message]
