"""Requests of an engine that wait for their turn."""

import asyncio
from contextlib import aclosing

import pytest
from narthex_server.engine.request import AdapterUse, EngineRequest, Finished, FinishReason
from narthex_server.errors import NotFound, ResourceExhausted, Unavailable
from narthex_server.lot.terms import TERMS, Priority, Terms

PROMPT = (1, 2, 3)


def request(name: str, prompt: tuple[int, ...] = PROMPT, most: int = 4) -> EngineRequest:
    return EngineRequest(name, prompt, most, index=0)


async def ended(events) -> Finished:
    return [event async for event in events][-1]


@pytest.fixture
async def model(serve):
    """A model with two slots, for which its pool admits three."""
    async with serve("Hello.") as made:
        yield made


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_request_costs_a_slot_and_memory_until_the_engine_is_done(model):
    pool = model.engine.pool
    stream = model.engine.generate(request("a"))
    async with aclosing(stream):
        await anext(stream)
        used = pool.reading().used
        assert used["slots"] in (0, 1) and used["kv_tokens"] in (0, len(PROMPT) + 4)  # it may be over already
        async with asyncio.timeout(10):
            while pool.running:  # noqa: ASYNC110 (nobody reads the end, and yet it is given back)
                await asyncio.sleep(0.001)
        assert isinstance([event async for event in stream][-1], Finished)
    assert pool.reading().used == {"slots": 0, "kv_tokens": 0}


async def test_what_waits_is_counted_with_what_the_engine_has(model):
    model.engine.pool.resize({"slots": 1})
    permit = await model.engine.pool.admit({"slots": 1})
    tasks = [asyncio.create_task(ended(model.engine.generate(request(name)))) for name in "abc"]
    await settle()
    assert model.engine.snapshot().waiting == 3
    permit.release()
    results = await asyncio.gather(*tasks)
    assert all(result.usage.prompt_tokens == len(PROMPT) for result in results)
    assert model.engine.snapshot().waiting == 0


async def test_one_that_waits_is_aborted_by_its_name(model):
    with await model.engine.pool.admit({"slots": 3}):
        first, second = (asyncio.create_task(ended(model.engine.generate(request(name)))) for name in "ab")
        await settle()
        assert model.abort("a") and not model.abort("c") and not model.abort("b", index=1)
        end = await first
        assert end.reason is FinishReason.CANCELLED and end.usage.completion_tokens == 0
        assert not second.done() and model.engine.pool.waiting == 1
    assert (await second).reason is not FinishReason.CANCELLED


async def test_what_cannot_be_run_does_not_wait(model):
    with await model.engine.pool.admit({"slots": 3}), pytest.raises(NotFound):
        await ended(model.engine.generate(EngineRequest("a", PROMPT, 4, adapters=(AdapterUse("none"),))))


async def test_closing_it_at_any_point_gives_the_units_back(model):
    pool = model.engine.pool
    stream = model.engine.generate(request("a", most=1000))
    await anext(stream)
    await stream.aclose()
    assert pool.reading().used == {"slots": 0, "kv_tokens": 0}
    with await pool.admit({"slots": 3}):
        waiting = asyncio.create_task(ended(model.engine.generate(request("b"))))
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert pool.waiting == 0
    assert pool.reading().used == {"slots": 0, "kv_tokens": 0}


async def test_memory_that_the_pool_never_has_is_refused_with_the_numbers(model):
    model.engine.pool.resize({"kv_tokens": 5})
    with pytest.raises(ResourceExhausted) as caught:
        await ended(model.engine.generate(request("a")))
    assert caught.value.metadata["requested"] == "7" and caught.value.metadata["maximum"] == "5"


async def test_the_length_of_answers_is_learned(serve):
    async with serve("Hello.", opening="Say: ") as model:
        prompt = tuple(model.text.tokenizer.encode("Say: "))
        stop = model.text.eos_ids
        for turn in range(60):
            await ended(model.engine.generate(EngineRequest(str(turn), prompt, 1000, stop)))
        with await model.engine.pool.admit({"slots": 1}):
            model.engine.pool.resize({"kv_tokens": 40})  # where the first guess would not have fitted
            assert (await ended(model.engine.generate(EngineRequest("a", prompt, 1000, stop)))).usage.completion_tokens


async def test_a_model_that_is_gone_turns_away_what_waits(model):
    with await model.engine.pool.admit({"slots": 3}):
        waiting = asyncio.create_task(ended(model.engine.generate(request("a"))))
        await settle()
        model.engine.pool.close()
        with pytest.raises(Unavailable):
            await waiting


async def test_an_urgent_call_does_not_wait_for_batch_work_but_for_other_calls(model):
    async def asked(name, priority, most=2000):
        TERMS.set(Terms(priority))
        return await ended(model.engine.generate(request(name, most=most)))

    def begun(*args):
        return asyncio.create_task(asked(*args))

    pool, running = model.engine.pool, [begun(name, Priority.LOW) for name in "abc"]
    await settle()
    assert pool.running == 3
    end = await begun("urgent", Priority.HIGH, 4)
    assert end.usage.completion_tokens == 4 and not any(task.done() for task in running)
    running.append(begun("normal", Priority.NORMAL))
    await settle()
    assert pool.running == 3 and pool.waiting == 1
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert pool.reading().used == {"slots": 0, "kv_tokens": 0}
