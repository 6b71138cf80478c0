"""The engine on real decoders, in float32.

With int8 activations a prompt's chunks and single tokens round differently, so that a near tie may fall either way.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import Dry, EngineRequest, Finished, Sampling, Tokens
from narthex_server.loading import LoadOptions, load

ROOT = Path(__file__).parents[2]
GOLDEN = (
    "llama", "mistral_swa", "qwen2", "qwen3", "phi3", "phi3_longrope", "gemma2", "gemma3", "granite", "smollm3",
    "mixtral", "qwen3_moe", "lfm2",
)  # fmt: skip
ALSO = (
    "gemma", "gemma3_vision", "qwen2_moe", "lfm2_moe", "olmo2", "starcoder2", "gpt_oss", "gpt_oss_mxfp4",
    "qwen3_next", "qwen3_5",
)  # fmt: skip
"""Families that take part only in the test that mixes everything."""
ONNX = ("onnx_llama", "onnx_llama_merged", "onnx_lfm2", "genai_qwen3_fp32", "genai_lfm2_fp32")
MODELS = (
    {"demo": ROOT / "models/demo/tiny-tool-demo-q8_0.gguf"}
    | {name: ROOT / "tests/golden" / name for name in GOLDEN + ALSO}
    | {name: ROOT / "tests/golden-onnx" / name for name in ONNX}
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(params=[name for name in MODELS if name not in ALSO])
def started(request, cache):
    @asynccontextmanager
    async def started(slots=4, options=EngineOptions()) -> AsyncIterator[EngineHandle]:  # noqa: B008 (frozen)
        path = MODELS[request.param]
        model = load(path, LoadOptions(compute="float32", threads=2, slots=slots, max_context=512, cache_dir=cache))
        handle = EngineHandle(model.session, options)
        handle.start()
        try:
            yield handle
        finally:
            await handle.stop(0)

    return started


async def generate(handle, prompt, count, sampling=None, name="r"):
    ids: list[int] = []
    async for event in handle.generate(EngineRequest(name, prompt, count, sampling=sampling or Sampling(0))):
        match event:
            case Tokens():
                ids.extend(event.ids)
            case Finished():
                return tuple(ids), event.usage
    raise AssertionError("no Finished")


def prompts(handle, sizes):
    rng = np.random.default_rng(5)
    return [tuple(rng.integers(handle.vocab_size, size=size).tolist()) for size in sizes]


async def test_a_batch_gives_what_each_request_gives_alone(started):
    greedy, drawn = Sampling(0), Sampling(0.8, top_k=40, top_p=0.95, seed=11)
    drawn = replace(drawn, frequency_penalty=0.3, repetition_penalty=1.1, dry=Dry(), logit_bias=((7, -3.0),))
    async with started() as handle:
        asked = [(p, s) for p in prompts(handle, (1, 7, 40, 90, 200)) for s in (greedy, drawn)]
        alone = []
        for prompt, sampling in asked:
            async with started(1) as solo:
                alone.append((await generate(solo, prompt, 30, sampling))[0])
        runs = (generate(handle, p, 30, s, str(n)) for n, (p, s) in enumerate(asked))
        together = [ids for ids, _ in await asyncio.gather(*runs)]
    assert together == alone


async def test_a_reused_prefix_changes_no_token(started):
    async with started() as handle:
        (history,) = prompts(handle, (50,))
        for _ in range(4):
            ids, usage = await generate(handle, history, 20)
            async with started(1) as fresh:
                assert (await generate(fresh, history, 20))[0] == ids
            history = (*history, *ids, 3, 4)
        assert usage.cached_tokens == len(history) - 22 - 3  # all but its last token and the two that were added


@pytest.mark.parametrize("started", MODELS, indirect=True)
async def test_arrivals_and_cancels_at_random_change_nothing_and_leak_nothing(started):
    rng = random.Random(2)
    async with started(3, EngineOptions(prefill_tokens=32)) as handle:
        stems = prompts(handle, (100, 100))
        expected: dict[tuple[int, ...], tuple[int, ...]] = {}
        async with started(1) as solo:
            for stem in stems:
                for size in (5, 30, 100):
                    expected[stem[:size]] = (await generate(solo, stem[:size], 25))[0]

        async def client(number):
            for turn in range(6):
                prompt = rng.choice([*expected])
                until, got = rng.choice((25, rng.randrange(1, 25))), []
                request = EngineRequest(f"{number}.{turn}", prompt, 25, sampling=Sampling(0))
                async with aclosing(handle.generate(request)) as events:
                    async for event in events:
                        got += event.ids if isinstance(event, Tokens) else ()
                        if len(got) >= until:
                            break
                assert tuple(got) == expected[prompt][: len(got)]

        await asyncio.gather(*(client(number) for number in range(7)))
        await generate(handle, stems[0][:1], 1)  # a step later than the last cancel
        stats = handle.snapshot()
    assert (stats.running, stats.waiting, stats.kv_tokens_used) == (0, 0, 0) and stats.cached_tokens > 0
