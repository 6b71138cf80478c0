"""Slots that may not hold all that they could."""

import asyncio
import random
from contextlib import aclosing

import pytest
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, FinishReason, Sampling, Tokens
from narthex_server.errors import ContextOverflow

GREEDY = Sampling(temperature=0)
KINDS = {"plain": {}, "stateful": {"state_bytes": 8}, "two classes": {"long": 40}}


def request(name, prompt, count=10, **fields):
    return EngineRequest(name, tuple(prompt), count, **{"sampling": GREEDY, **fields})


class Odd:
    """A grammar that allows odd tokens after even ones and the other way round: it has a state to lose."""

    def __init__(self):
        self.last = 0

    def mask(self, logits):
        logits[self.last % 2 :: 2] = float("-inf")

    def accept(self, token):
        assert token % 2 != self.last % 2
        self.last = token


@pytest.mark.parametrize("kind", KINDS)
async def test_sequences_that_outgrow_the_budget_give_what_they_give_alone(make_decoder, running, collect, kind):
    decoder = make_decoder(**KINDS[kind])
    prompts = [tuple(range(n, n + 20)) for n in range(4)]
    async with running(decoder, EngineOptions(kv_tokens=160)) as handle:
        results = await asyncio.gather(*(collect(handle, request(str(n), p, 60)) for n, p in enumerate(prompts)))
        stats = handle.snapshot()
    assert [ids for ids, _ in results] == [decoder.solo(p, 60) for p in prompts]
    assert stats.preemptions > 0 and stats.kv_tokens_capacity == 160


async def test_a_sequence_that_cannot_be_appended_to_decodes_its_own_tokens_again(make_decoder, running, collect):
    decoder = make_decoder()
    decoder.appends = False
    prompts = [tuple(range(n, n + 20)) for n in range(4)]
    async with running(decoder, EngineOptions(kv_tokens=160)) as handle:
        results = await asyncio.gather(*(collect(handle, request(str(n), p, 60)) for n, p in enumerate(prompts)))
        assert handle.snapshot().preemptions > 0
    assert [ids for ids, _ in results] == [decoder.solo(p, 60) for p in prompts]
    assert not [size for call, size in decoder.calls if call == "prefill" and size > 20]


async def test_draws_and_grammars_go_on_as_if_nothing_had_happened(make_decoder, running, collect):
    asked = [
        request(
            str(n), range(n, n + 20), 60, sampling=Sampling(1.0, top_k=20, seed=n), grammar=Odd() if n % 2 else None
        )
        for n in range(4)
    ]
    again = [
        request(
            str(n), range(n, n + 20), 60, sampling=Sampling(1.0, top_k=20, seed=n), grammar=Odd() if n % 2 else None
        )
        for n in range(4)
    ]
    async with running(make_decoder()) as handle:
        free = await asyncio.gather(*(collect(handle, one) for one in asked))
        assert handle.snapshot().preemptions == 0
    async with running(make_decoder(), EngineOptions(kv_tokens=150)) as handle:
        pressed = await asyncio.gather(*(collect(handle, one) for one in again))
        assert handle.snapshot().preemptions > 0
    assert [ids for ids, _ in free] == [ids for ids, _ in pressed]
    assert [finished.usage.prompt_tokens for _, finished in pressed] == [20] * 4


async def test_two_that_do_not_fit_together_take_turns_once_and_never_push_each_other_out(
    make_decoder, running, collect, recorder
):
    decoder = make_decoder()
    async with running(decoder, EngineOptions(kv_tokens=128), recorder) as handle:
        async with asyncio.timeout(10):
            runs = (collect(handle, request(str(n), range(n, n + 20), 100)) for n in range(2))
            results = await asyncio.gather(*runs)
        assert handle.snapshot().preemptions == 1
    assert [ids for ids, _ in results] == [decoder.solo(tuple(range(n, n + 20)), 100) for n in range(2)]
    assert [report.request_id for report in recorder.reports] == ["0", "1"]


async def test_memory_is_never_over_committed_and_kept_histories_go_first(make_decoder, running, collect):
    decoder, most = make_decoder(slots=6), 0

    def watch(call, tokens):
        nonlocal most
        most = max(most, int((decoder.cache != -7).sum()))

    async with running(decoder, EngineOptions(kv_tokens=200, prefill_tokens=16)) as handle:
        decoder.before = watch
        rng = random.Random(3)
        for turn in range(12):
            asked = [
                request(f"{turn}.{n}", [rng.randrange(50) for _ in range(rng.randrange(1, 60))], rng.randrange(1, 60))
                for n in range(rng.randrange(1, 9))
            ]
            results = await asyncio.gather(*(collect(handle, one) for one in asked))
            assert [ids for ids, _ in results] == [decoder.solo(one.prompt, one.max_tokens) for one in asked]
            stats = handle.snapshot()
            assert stats.kv_tokens_used + stats.kv_tokens_kept <= 200
    assert most <= 200 + 6  # a dead row writes one token behind what its slot keeps


async def test_what_can_never_fit_is_refused_with_its_numbers_and_the_largest_that_fits_runs(
    make_decoder, running, collect
):
    async with running(make_decoder(), EngineOptions(kv_tokens=60)) as handle:
        assert handle.max_context == 60
        with pytest.raises(ContextOverflow) as caught:
            await anext(handle.generate(request("a", range(20), 41)))
        assert caught.value.metadata == {"prompt_tokens": "20", "max_tokens": "41", "context": "60"}
        async with aclosing(handle.generate(request("b", range(10), 40))) as small:
            await anext(small)
            ids, _ = await collect(handle, request("c", range(20), 40))
        assert len(ids) == 40


async def test_one_that_does_not_fit_now_waits_and_nobody_overtakes_it(make_decoder, running, collect, recorder):
    decoder = make_decoder()
    async with running(decoder, EngineOptions(kv_tokens=128), recorder) as handle:
        stream = handle.generate(request("first", [*range(50), *range(10)], 68))
        assert isinstance(await anext(stream), Tokens)
        large = asyncio.create_task(collect(handle, request("large", range(49, -1, -1), 3)))
        small = asyncio.create_task(collect(handle, request("small", (1, 2), 3)))
        async for _ in stream:
            pass
        await asyncio.gather(large, small)
    assert [report.request_id for report in recorder.reports] == ["first", "large", "small"]


async def test_a_preempted_request_can_be_cancelled_while_it_waits(make_decoder, running, collect, recorder):
    decoder = make_decoder(max_len=4096)
    async with running(decoder, EngineOptions(kv_tokens=2048), recorder) as handle:
        old = asyncio.create_task(collect(handle, request("old", range(20), 1900)))
        got = 0
        async for event in handle.generate(request("young", range(1, 21), 1900)):
            got += len(getattr(event, "ids", ()))
            if handle.snapshot().preemptions:
                handle.abort("young")
        assert event.reason is FinishReason.CANCELLED and event.usage.completion_tokens == got
        assert len((await old)[0]) == 1900
        await recorder.finished(2)
        assert (handle.snapshot().running, handle.snapshot().waiting) == (0, 0)
