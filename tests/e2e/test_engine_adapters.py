"""The engine on a real decoder whose requests use adapters: arrivals, cancels, loads and unloads at random."""

import asyncio
import random
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from narthex_server.engine.adapters import AdapterInfo
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import AdapterUse, EngineRequest, Sampling, Tokens
from narthex_server.loading import LoadOptions, load
from narthex_server.runtime.adapter_bank import Limits
from narthex_server.weights.adapters import read_adapter

GOLDEN = Path(__file__).parents[1] / "golden"
USES = ((), (AdapterUse("a"),), (AdapterUse("b"),), (AdapterUse("a", 0.5), AdapterUse("b")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


@asynccontextmanager
async def started(cache, slots, **more):
    options = LoadOptions("float32", threads=2, slots=slots, max_context=512, cache_dir=cache, **more)
    handle = EngineHandle(load(GOLDEN / "llama", options).session, EngineOptions(prefill_tokens=32))
    handle.start()
    try:
        yield handle
    finally:
        await handle.stop(0)


async def take(handle, name, prompt, uses=(), until=25):
    got: list[int] = []
    request = EngineRequest(name, prompt, 25, sampling=Sampling(0), adapters=uses)
    async with aclosing(handle.generate(request)) as events:
        async for event in events:
            got += event.ids if isinstance(event, Tokens) else ()
            if len(got) >= until:
                break
    return tuple(got)


def stems(handle):
    rng = np.random.default_rng(5)
    return [tuple(rng.integers(handle.vocab_size, size=size).tolist()) for size in (7, 40, 120)]


async def put(handle, *names):
    for name in names:
        adapter = read_adapter(GOLDEN / "lora_llama" / f"adapter_{name[0]}")
        await handle.load_adapter(AdapterInfo(name, adapter.rank, adapter.scale), adapter)


async def test_adapted_requests_give_in_any_company_what_they_give_alone(cache):
    rng, room = random.Random(2), Limits(3, 16)
    async with started(cache, 1, adapters=room) as solo:
        await put(solo, "a", "b")
        expected = {(p, u): await take(solo, "s", p, u) for p in stems(solo) for u in USES}
    assert len(set(expected.values())) == len(expected)
    async with started(cache, 4, adapters=room) as handle:
        await put(handle, "a", "b")

        async def client(number):
            for turn in range(6):
                asked = rng.choice([*expected])
                until = rng.choice((25, rng.randrange(1, 25)))
                got = await take(handle, f"{number}.{turn}", *asked, until)
                assert got == expected[asked][: len(got)] and len(got) >= until

        async def changes():
            for _ in range(6):
                await put(handle, "a2")
                await handle.unload_adapter("a2")

        await asyncio.gather(*(client(number) for number in range(7)), changes())
        await take(handle, "last", stems(handle)[0], (), 25)
        stats = handle.snapshot()
    assert (stats.running, stats.kv_tokens_used, stats.adapters) == (0, 0, 2) and stats.cached_tokens > 0


@pytest.mark.parametrize("frozen", [0, 5])
async def test_an_xlora_gives_in_any_company_what_it_gives_alone(cache, frozen):
    more = {"xlora": GOLDEN / "xlora_llama" / "xlora", "xlora_frozen_after": frozen}
    async with started(cache, 1, **more) as solo:
        expected = {prompt: await take(solo, "s", prompt) for prompt in stems(solo)}
    async with started(cache, 4, **more) as handle:
        asked = [(prompt, until) for prompt in expected for until in (25, 9)]
        for _ in range(2):  # the second time on cached prefixes, unless scalings freeze
            runs = [take(handle, str(number), prompt, (), until) for number, (prompt, until) in enumerate(asked)]
            for (prompt, _), got in zip(asked, await asyncio.gather(*runs), strict=True):
                assert got == expected[prompt][: len(got)]
        await take(handle, "last", stems(handle)[0], (), 25)
        stats = handle.snapshot()
    assert (stats.running, stats.kv_tokens_used) == (0, 0) and (stats.cached_tokens > 0) == (not frozen)
