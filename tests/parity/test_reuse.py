"""What the engine computes with slots taken over, copied, moved, given back or guessed ahead, against a cold run."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.lookup import Lookup
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.pace import Pace, Run
from narthex_server.engine.request import EngineRequest, Finished, Sampling, Tokens
from narthex_server.loading import LoadOptions, load

MODELS = ("llama", "mistral_swa", "qwen3", "gemma2", "gpt_oss", "phi3_longrope", "mixtral", "lfm2", "qwen3_next")
STATES = ("lfm2", "qwen3_next")
COUNT = 24


class Recorder:
    """A grammar that allows everything and keeps the logits it is shown."""

    def __init__(self):
        self.logits = []

    def mask(self, logits):
        self.logits.append(logits.copy())

    def accept(self, token):
        pass


@pytest.fixture(params=MODELS)
def started(request, golden_dir, tmp_path_factory):
    path, cache = golden_dir / request.param, tmp_path_factory.getbasetemp() / "graphs"

    @asynccontextmanager
    async def started(**options):
        shape = LoadOptions("float32", threads=2, slots=4, max_context=256, cache_dir=cache)
        handle = EngineHandle(load(path, shape).session, EngineOptions(**{"speculate": False, **options}))
        handle.start()
        try:
            yield handle
        finally:
            await handle.stop(0)

    started.states = request.param in STATES
    return started


async def generate(handle, prompt, count=COUNT, name="r"):
    recorder, ids = Recorder(), []
    asked = EngineRequest(name, tuple(prompt), count, sampling=Sampling(0), grammar=recorder)
    async for event in handle.generate(asked):
        match event:
            case Tokens():
                ids.extend(event.ids)
            case Finished():
                return ids, np.array(recorder.logits), event.usage
    raise AssertionError("no Finished")


def texts(handle):
    rng = np.random.default_rng(8)
    return [tuple(rng.integers(handle.vocab_size, size=60).tolist()) for _ in range(3)]


@pytest.fixture
def same(started):
    """Compares a run with one in an engine that has seen nothing."""

    async def same(prompt, run):
        async with started() as handle:
            ids, logits, _ = await generate(handle, prompt)
        assert run[0] == ids
        np.testing.assert_allclose(run[1], logits, atol=1e-4, rtol=0)

    return same


async def test_a_slot_that_is_taken_over(started, same):
    async with started() as handle:
        prompt = texts(handle)[0]
        ids, _, _ = await generate(handle, prompt[:20], 8)
        longer = (*prompt[:20], *ids, *prompt[20:24])  # short enough for LongRoPE to be the same
        run = await generate(handle, longer)
    assert run[2].cached_tokens == 27
    await same(longer, run)


async def test_a_slot_that_is_copied(started, same):
    async with started(prefill_tokens=20) as handle:
        prompt, other, _ = texts(handle)
        await generate(handle, (*prompt[:45], *other[:9]))
        run = await generate(handle, prompt)
        stats = handle.snapshot()
    assert run[2].cached_tokens == (40 if started.states else 45) and stats.kept == 2
    await same(prompt, run)


async def test_requests_that_come_together(started, same):
    async with started(prefill_tokens=20) as handle:
        prompt, other, _ = texts(handle)
        _, run = await asyncio.gather(generate(handle, (*prompt[:45], *other[:9])), generate(handle, prompt, name="b"))
    assert run[2].cached_tokens == 45
    await same(prompt, run)


async def test_a_slot_that_is_moved(started, same):
    async with started() as handle:
        first, second, prompt = texts(handle)
        runs = ((first, 60, "a"), (second, 2, "b"), (prompt, COUNT, "c"))
        *_, run = await asyncio.gather(*(generate(handle, *one) for one in runs))
        assert handle.snapshot().moves >= 1
    await same(prompt, run)


async def test_a_slot_that_is_given_back_and_computed_again(started, same):
    async with started(kv_tokens=160) as handle:
        first, _, prompt = texts(handle)
        _, run = await asyncio.gather(generate(handle, first, 80, "a"), generate(handle, prompt))
        assert handle.snapshot().preemptions >= 1
    await same(prompt, run)


async def test_tokens_that_are_guessed_ahead(started, same, monkeypatch):
    async with started() as handle:
        prompt = texts(handle)[0]
        ids, _, _ = await generate(handle, prompt)

    def note(self, kind, size, seconds):
        self._means[kind][size] = 0.1 if kind is Run.VERIFY else float(size)

    def propose(self, tokens, most):
        """What comes, but for every fifth token."""
        said = len(tokens) - len(prompt)
        right = [token if place % 5 else token ^ 1 for place, token in enumerate(ids)]
        return (right[said:] + [0] * most)[:most]

    monkeypatch.setattr(Pace, "note", note)
    monkeypatch.setattr(Lookup, "propose", propose)
    async with started(speculate=True) as handle:
        run = await generate(handle, prompt)
        stats = handle.snapshot()
    assert started.states or 5 < stats.accepted_tokens < stats.draft_tokens
    assert (stats.drafts == 0) is started.states
    await same(prompt, run)
