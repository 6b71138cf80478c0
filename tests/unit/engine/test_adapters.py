import asyncio
from contextlib import aclosing

import pytest
from narthex_server.engine.adapters import AdapterInfo
from narthex_server.engine.request import AdapterUse, EngineRequest, Sampling
from narthex_server.errors import AlreadyExists, FailedPrecondition, InternalError, NotFound, ResourceExhausted

GREEDY = Sampling(temperature=0)
PROMPT = tuple(range(20))


def request(name, prompt, *uses, count=10):
    return EngineRequest(name, tuple(prompt), count, sampling=GREEDY, adapters=uses)


def info(name):
    return AdapterInfo(name, 4, 2.0)


@pytest.fixture
def adapting(make_decoder):
    return make_decoder(adapts=True)


async def test_one_batch_mixes_adapters_and_each_row_is_as_it_would_be_alone(adapting, running, collect):
    async with running(adapting) as handle:
        await handle.load_adapter(info("a"), 3)
        await handle.load_adapter(info("b"), 5)
        uses = [(), (AdapterUse("a"),), (AdapterUse("b", 2.0),), (AdapterUse("a"), AdapterUse("b", 0.5))]
        runs = [collect(handle, request(str(n), PROMPT, *use)) for n, use in enumerate(uses)]
        results = [ids for ids, _ in await asyncio.gather(*runs)]
    assert results == [adapting.solo(PROMPT, 10, added) for added in (0, 300, 1000, 550)]


async def test_an_unknown_adapter_is_refused_with_those_that_are_known(adapting, decoder, running, collect):
    async with running(adapting) as handle:
        await handle.load_adapter(info("a"), 3)
        with pytest.raises(NotFound, match="there is no adapter 'x'; loaded are: a"):
            await collect(handle, request("r", PROMPT, AdapterUse("x")))
        with pytest.raises(NotFound, match="no adapter 'x'"):
            await handle.unload_adapter("x")
    async with running(decoder) as handle:
        with pytest.raises(NotFound, match="loaded are: none"):
            await collect(handle, request("r", PROMPT, AdapterUse("a")))


async def test_a_prefix_computed_with_one_adapter_serves_only_that_one(adapting, running, collect):
    async with running(adapting) as handle:
        await handle.load_adapter(info("a"), 3)
        for uses, added, cached in (
            ((), 0, 0), ((AdapterUse("a"),), 300, 0), ((AdapterUse("a"),), 300, 19), ((), 0, 19),
            ((AdapterUse("a", 0.5),), 150, 0),
        ):  # fmt: skip
            ids, finished = await collect(handle, request("r", PROMPT, *uses))
            assert ids == adapting.solo(PROMPT, 10, added) and finished.usage.cached_tokens == cached
        await handle.unload_adapter("a")
        await handle.load_adapter(info("a"), 7)
        ids, finished = await collect(handle, request("r", PROMPT, AdapterUse("a")))
    assert ids == adapting.solo(PROMPT, 10, 700) and finished.usage.cached_tokens == 0


async def test_unloading_waits_for_the_streams_that_use_the_adapter_and_refuses_later_ones(adapting, running, collect):
    async with running(adapting) as handle:
        await handle.load_adapter(info("a"), 3)
        async with aclosing(handle.generate(request("r", PROMPT, AdapterUse("a"), count=100))) as stream:
            ids = [*(await anext(stream)).ids]
            unloading = asyncio.create_task(handle.unload_adapter("a"))
            await asyncio.sleep(0)
            assert handle.adapters == ()
            with pytest.raises(NotFound):
                await collect(handle, request("late", PROMPT, AdapterUse("a")))
            assert (await collect(handle, request("base", PROMPT)))[0] == adapting.solo(PROMPT, 10)
            async for event in stream:
                ids.extend(getattr(event, "ids", ()))
        await unloading
        assert tuple(ids) == adapting.solo(PROMPT, 100, 300) and adapting.adapters.numbers == [0, 0]


async def test_loading_disturbs_no_running_stream(adapting, running):
    async with running(adapting) as handle:
        async with aclosing(handle.generate(request("r", PROMPT, count=100))) as stream:
            ids = [*(await anext(stream)).ids]
            for number in range(5):
                await handle.load_adapter(info("a"), number + 1)
                await handle.unload_adapter("a")
            async for event in stream:
                ids.extend(getattr(event, "ids", ()))
        assert tuple(ids) == adapting.solo(PROMPT, 100)


async def test_names_places_and_models_are_checked_before_anything_is_loaded(adapting, decoder, running):
    async with running(adapting) as handle:
        first = asyncio.create_task(handle.load_adapter(info("a"), 1))
        await asyncio.sleep(0)
        with pytest.raises(AlreadyExists, match="there is an adapter 'a' already"):
            await handle.load_adapter(info("a"), 2)  # while the first is on its way
        await first
        with pytest.raises(FailedPrecondition, match="another model"):
            await handle.load_adapter(info("b"), -1)
        await handle.load_adapter(info("b"), 2)
        with pytest.raises(ResourceExhausted, match="2 adapters are loaded, the limit") as caught:
            await handle.load_adapter(info("c"), 3)
        assert caught.value.reason == "TOO_MANY_ADAPTERS"
        await handle.unload_adapter("a")
        await handle.load_adapter(info("c"), 3)
        assert [known.name for known in handle.adapters] == ["b", "c"]
    async with running(decoder) as handle:
        with pytest.raises(FailedPrecondition, match="--max-adapters"):
            await handle.load_adapter(info("a"), 1)


async def test_an_adapter_that_cannot_be_loaded_leaves_its_place_free(adapting, running, collect):
    async with running(adapting) as handle:
        for _ in range(3):
            with pytest.raises(InternalError, match="error id"):
                await handle.load_adapter(info("a"), 5000)
        await handle.load_adapter(info("a"), 1)
        await handle.load_adapter(info("b"), 2)
        assert (await collect(handle, request("r", PROMPT, AdapterUse("b"))))[0] == adapting.solo(PROMPT, 10, 200)


async def test_a_load_whose_caller_left_is_finished(adapting, running, collect):
    async with running(adapting) as handle:
        loading = asyncio.create_task(handle.load_adapter(info("a"), 4))
        await asyncio.sleep(0)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await handle.load_adapter(info("b"), 5)  # the thread takes messages in order
        assert (await collect(handle, request("r", PROMPT, AdapterUse("a"))))[0] == adapting.solo(PROMPT, 10, 400)


async def test_an_adapter_that_cannot_be_unloaded_is_an_error_and_its_place_is_lost(adapting, running, collect):
    async with running(adapting) as handle:
        await handle.load_adapter(info("a"), 1000)
        async with asyncio.timeout(10):
            with pytest.raises(InternalError, match="error id"):
                await handle.unload_adapter("a")
        await handle.load_adapter(info("b"), 2)
        with pytest.raises(ResourceExhausted):
            await handle.load_adapter(info("c"), 3)
        assert (await collect(handle, request("r", PROMPT, AdapterUse("b"))))[0] == adapting.solo(PROMPT, 10, 200)
