import asyncio
import random
import threading
from contextlib import aclosing

import pytest
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Sampling

GREEDY = Sampling(temperature=0)


def request(name, prompt, count=10):
    return EngineRequest(name, tuple(prompt), count, sampling=GREEDY)


async def test_a_resent_history_costs_only_its_new_tokens(decoder, running, collect):
    async with running(decoder) as handle:
        history = tuple(range(20))
        for turn in range(3):
            ids, finished = await collect(handle, request("a", history))
            assert ids == decoder.solo(history, 10)
            assert finished.usage.cached_tokens == (len(history) - 4 if turn else 0)
            history += (*ids, 1, 2, 3)
        assert ("copy", 20) not in decoder.calls and handle.snapshot().kept == 1


async def test_the_same_prompt_again_computes_one_token(decoder, running, collect):
    async with running(decoder) as handle:
        first = await collect(handle, request("a", range(30)))
        decoder.calls.clear()
        again = await collect(handle, request("b", range(30)))
    assert first[0] == again[0] and again[1].usage.cached_tokens == 29
    assert not [call for call in decoder.calls if call[0] == "prefill"]


async def test_a_shared_beginning_is_copied_and_both_histories_stay(decoder, running, collect):
    shared = tuple(range(20))
    async with running(decoder) as handle:
        for tail in (30, 40):
            await collect(handle, request("a", (*shared, tail, tail)))
        for tail in (30, 40):
            ids, finished = await collect(handle, request("a", (*shared, tail, tail)))
            assert ids == decoder.solo((*shared, tail, tail), 10) and finished.usage.cached_tokens == 21


async def test_a_running_requests_prefix_is_shared_too(decoder, running, collect):
    async with running(decoder) as handle, aclosing(handle.generate(request("a", range(20), 100))) as stream:
        await anext(stream)
        ids, finished = await collect(handle, request("b", (*range(20), 5)))
    assert ids == decoder.solo((*range(20), 5), 10) and finished.usage.cached_tokens == 20


async def test_a_chance_resemblance_does_not_cost_another_history_its_place(decoder, running, collect):
    async with running(decoder) as handle:
        await collect(handle, request("a", (0, *range(30))))
        _, other = await collect(handle, request("b", (0, *range(40, 10, -1))))
        _, again = await collect(handle, request("a", (0, *range(30))))
    assert other.usage.cached_tokens == 0 and again.usage.cached_tokens == 30


async def test_the_oldest_history_gives_way(decoder, running, collect):
    prompts = [tuple(range(n, n + 20)) for n in (0, 5, 10, 15, 20)]
    async with running(decoder) as handle:
        for prompt in prompts:
            await collect(handle, request("a", prompt))
        cached = [(await collect(handle, request("a", p)))[1].usage.cached_tokens for p in prompts[1:]]
    assert cached == [19] * 4


async def test_a_failed_requests_cache_is_not_reused(decoder, running, collect):
    def fail(call, tokens):
        if call == "decode":
            decoder.cache[:, 3:] = 99
            raise RuntimeError("broken")

    async with running(decoder) as handle:
        decoder.before = fail
        try:
            await collect(handle, request("a", range(20)))
        except Exception as error:
            assert "error id" in str(error)
        decoder.before = None
        ids, finished = await collect(handle, request("a", range(20)))
    assert ids == decoder.solo(tuple(range(20)), 10) and finished.usage.cached_tokens == 0


async def test_gaps_between_rows_are_closed_and_kept_prefixes_survive(make_decoder, running, collect):
    decoder = make_decoder(slots=8, max_len=2000)
    prompts = [tuple(range(n, n + 20)) for n in range(8)]
    counts = [400, 5, 5, 5, 5, 5, 5, 400]  # the ends stay, everything between them goes
    async with running(decoder, EngineOptions(speculate=False)) as handle:
        results = await asyncio.gather(*(collect(handle, request(str(n), p, counts[n])) for n, p in enumerate(prompts)))
        stats = handle.snapshot()
        assert [ids for ids, _ in results] == [decoder.solo(p, counts[n]) for n, p in enumerate(prompts)]
        assert stats.moves == 1 and stats.dead_rows < 100
        survivors = [prompts[n] for n in (0, 2, 3, 4, 5, 6, 7)]  # no slot was empty, so the oldest prefix made room
        cached = [(await collect(handle, request("x", p, 3)))[1].usage.cached_tokens for p in survivors]
        assert cached == [19] * 7


@pytest.mark.parametrize("kind", [{}, {"state_bytes": 8}, {"long": 40}], ids=["plain", "stateful", "two classes"])
async def test_random_arrivals_and_cancels_leak_nothing_and_change_nothing(make_decoder, running, recorder, kind):
    decoder = make_decoder(slots=5, max_len=200, **kind)
    rng = random.Random(4)
    stems = [tuple(rng.randrange(50) for _ in range(60)) for _ in range(4)]

    async def client(handle, number):
        for turn in range(6):
            prompt = (*rng.choice(stems)[: rng.randrange(1, 60)], *(rng.randrange(50) for _ in range(rng.randrange(4))))
            count, until = rng.randrange(1, 60), rng.choice((1000, 1000, rng.randrange(1, 30)))
            ids = []
            async with aclosing(handle.generate(request(f"{number}.{turn}", prompt, count))) as stream:
                async for event in stream:
                    ids.extend(getattr(event, "ids", ()))
                    if len(ids) >= until:
                        break
            assert tuple(ids) == decoder.solo(prompt, len(ids))
            assert len(ids) == count or until < 1000

    async with running(decoder, EngineOptions(prefill_tokens=16), recorder) as handle:
        await asyncio.gather(*(client(handle, number) for number in range(12)))
        await recorder.finished(72)
        stats = handle.snapshot()
    assert (stats.running, stats.waiting, stats.kv_tokens_used) == (0, 0, 0)
    assert stats.cached_tokens > 500 and stats.kept <= 5


async def test_a_state_is_reused_from_where_it_was_saved(make_decoder, running, collect):
    decoder = make_decoder(state_bytes=8)
    async with running(decoder, EngineOptions(prefill_tokens=16)) as handle:
        history = tuple(range(40))
        first, _ = await collect(handle, request("a", history))
        assert first == decoder.solo(history, 10)
        longer, more = await collect(handle, request("a", (*history, *first, 1, 2, 3)))
        assert longer == decoder.solo((*history, *first, 1, 2, 3), 10) and more.usage.cached_tokens == 49
        again, same = await collect(handle, request("a", history))
        assert again == first and same.usage.cached_tokens == 39
        other, part = await collect(handle, request("a", (*history[:36], 1, 2)))
        assert other == decoder.solo((*history[:36], 1, 2), 10) and part.usage.cached_tokens == 32


async def test_rows_between_others_keep_their_states(make_decoder, running, collect):
    decoder = make_decoder(slots=8, state_bytes=8)
    prompts = [tuple(range(n, n + 20)) for n in range(5)]
    counts = [90, 4, 4, 90, 90]
    async with running(decoder) as handle:
        runs = [collect(handle, request(str(n), p, counts[n])) for n, p in enumerate(prompts)]
        results = await asyncio.gather(*runs)
        assert [ids for ids, _ in results] == [decoder.solo(p, counts[n]) for n, p in enumerate(prompts)]
        for n in (1, 2):
            ids, finished = await collect(handle, request("x", prompts[n], 8))
            assert ids == decoder.solo(prompts[n], 8) and finished.usage.cached_tokens == 19


async def test_prompts_of_different_classes_share_no_prefix(make_decoder, running, collect):
    decoder = make_decoder(long=30)
    async with running(decoder) as handle:
        for size, cached in ((20, 0), (40, 0), (25, 20), (45, 40)):
            ids, finished = await collect(handle, request("a", range(size), 10))
            assert ids == decoder.solo(tuple(range(size)), 10) and finished.usage.cached_tokens == cached


async def test_a_prompt_of_one_token_starts_without_a_state(make_decoder, running, collect):
    decoder = make_decoder(slots=1, state_bytes=8)
    async with running(decoder) as handle:
        await collect(handle, request("a", range(5, 25)))
        assert (await collect(handle, request("b", (3,))))[0] == decoder.solo((3,), 10)


async def test_large_states_leave_fewer_marks_but_a_conversation_goes_on_all_the_same(make_decoder, running, collect):
    decoder = make_decoder(slots=1, state_bytes=1 << 26, max_len=300)
    async with running(decoder, EngineOptions(prefill_tokens=8)) as handle:
        history = tuple(n % 50 for n in range(100))
        for turn in range(3):
            ids, finished = await collect(handle, request("a", history))
            assert ids == decoder.solo(history, 10)
            assert finished.usage.cached_tokens == (len(history) - 4 if turn else 0)
            again, same = await collect(handle, request("a", history))
            assert again == ids and same.usage.cached_tokens == len(history) - 1
            history += (*ids, 1, 2, 3)


def prefilled(decoder):
    return sum(size for call, size in decoder.calls if call == "prefill")


@pytest.fixture
def together(collect):
    """Runs requests that are all in the queue before the first step; a step that ran ahead would know less of them."""

    async def run(handle, decoder, requests):
        queued = threading.Event()
        decoder.before = lambda *_: queued.wait(10)
        runs = [asyncio.create_task(collect(handle, one)) for one in requests]
        await asyncio.sleep(0)  # each runs up to its first wait, which is for the engine
        queued.set()
        return await asyncio.gather(*runs)

    return run


@pytest.mark.parametrize("kind", [{}, {"state_bytes": 8}], ids=["plain", "stateful"])
async def test_what_requests_that_come_together_have_in_common_is_computed_once(make_decoder, running, together, kind):
    decoder = make_decoder(slots=8, **kind)
    shared = tuple(n % 50 for n in range(70))
    prompts = [(*shared, n, n + 1, n + 2) for n in range(6)]
    async with running(decoder, EngineOptions(prefill_tokens=16, speculate=False)) as handle:
        results = await together(handle, decoder, [request(str(n), p) for n, p in enumerate(prompts)])
        stats = handle.snapshot()
    assert [ids for ids, _ in results] == [decoder.solo(p, 10) for p in prompts]
    assert prefilled(decoder) <= 73 + 5 * 3
    assert [finished.usage.cached_tokens for _, finished in results] == [0, *[70] * 5]
    assert (stats.prompt_tokens, stats.cached_tokens) == (6 * 73, 5 * 70)


async def test_n_completions_of_one_prompt_compute_it_once(decoder, running, collect, together):
    prompt = tuple(range(50))
    asked = [EngineRequest(str(n), prompt, 10, sampling=Sampling(1.0, seed=n)) for n in range(4)]
    async with running(decoder, EngineOptions(speculate=False)) as handle:
        results = await together(handle, decoder, asked)
        assert prefilled(decoder) == 50
        alone = [(await collect(handle, one))[0] for one in asked]
    assert [ids for ids, _ in results] == alone and len(set(alone)) == 4


async def test_those_who_follow_go_on_when_the_one_ahead_is_cancelled(make_decoder, running, collect):
    decoder, handles = make_decoder(max_len=400), []
    prompt = tuple(n * 7 % 50 for n in range(300))

    def cancel(call, tokens):
        if call == "prefill" and len(decoder.calls) == 4:
            handles[0].abort("ahead")

    decoder.before = cancel
    async with running(decoder, EngineOptions(prefill_tokens=16, speculate=False)) as handle:
        handles.append(handle)
        runs = (collect(handle, request(name, prompt)) for name in ("ahead", "second", "third"))
        (_, ahead), *others = await asyncio.gather(*runs)
    assert ahead.reason.value == "cancelled"
    assert [ids for ids, _ in others] == [decoder.solo(prompt, 10)] * 2
    assert 300 <= prefilled(decoder) <= 316


async def test_those_who_follow_go_on_when_the_one_ahead_fails(make_decoder, running, collect):
    decoder = make_decoder(max_len=400)
    prompt = tuple(n * 7 % 50 for n in range(300))

    def fail(call, tokens):
        if call == "prefill" and len(decoder.calls) == 4:
            raise RuntimeError("broken")

    decoder.before = fail
    async with running(decoder, EngineOptions(prefill_tokens=16)) as handle:
        runs = (collect(handle, request(name, prompt)) for name in ("ahead", "second", "third"))
        ahead, *others = await asyncio.gather(*runs, return_exceptions=True)
    assert "error id" in str(ahead) and [ids for ids, _ in others] == [decoder.solo(prompt, 10)] * 2


async def test_a_short_resemblance_is_not_waited_for(decoder, running, collect):
    prompts = [(*range(20), *range(n, n + 25)) for n in range(3)]
    async with running(decoder, EngineOptions(prefill_tokens=16)) as handle:
        results = await asyncio.gather(*(collect(handle, request(str(n), p)) for n, p in enumerate(prompts)))
    assert [ids for ids, _ in results] == [decoder.solo(p, 10) for p in prompts]


async def test_a_template_that_changes_earlier_turns_costs_only_what_it_changed(decoder, running, collect):
    system, thoughts, answer = tuple(range(30)), (40, 41, 42), tuple(range(10, 20))
    async with running(decoder) as handle:
        await collect(handle, request("a", (*system, *thoughts, *answer)))
        later = (*system, *answer, 1, 2, 3)  # thoughts of earlier turns are left out
        ids, finished = await collect(handle, request("b", later))
    assert ids == decoder.solo(later, 10) and finished.usage.cached_tokens == 30


async def test_a_history_is_cut_in_place_where_a_copy_would_not_fit(make_decoder, running, collect):
    decoder = make_decoder()
    async with running(decoder, EngineOptions(kv_tokens=70)) as handle:
        await collect(handle, request("a", range(40)))
        later = (*range(30), 7, 7)
        ids, finished = await collect(handle, request("b", later))
        stats = handle.snapshot()
    assert ids == decoder.solo(later, 10) and finished.usage.cached_tokens == 30
    assert stats.kept == 1 and "copy" not in [call for call, _ in decoder.calls]
