import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing

import pytest
from narthex_server.errors import InvalidRequest, Unavailable
from narthex_server.pipelines.events import Finished, FinishReason, GenerateEvent, Started, TextDelta, Usage
from narthex_server.pipelines.generate import GeneratePipeline
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import GenerateRequest, SamplingOptions, StoppingOptions, nth
from narthex_server.pipelines.several import several
from narthex_server.text.constraint import Regex

Serve = Callable[..., AbstractAsyncContextManager[TextModel]]


class Streams:
    """Streams of so many pieces each, which note when they are closed."""

    def __init__(self, *sizes: int, fails: int = -1) -> None:
        self.sizes, self.fails, self.open = sizes, fails, len(sizes)

    async def stream(self, index: int) -> AsyncGenerator[GenerateEvent]:
        try:
            yield Started((1, 2))
            for piece in range(self.sizes[index]):
                await asyncio.sleep(0)
                yield TextDelta(f"{index}.{piece}")
            if index == self.fails:
                raise Unavailable("gone")
            yield Finished(FinishReason.STOP, Usage(2, self.sizes[index], int(index > 0)))
        finally:
            self.open -= 1

    def all(self) -> list[AsyncGenerator[GenerateEvent]]:
        return [self.stream(index) for index in range(len(self.sizes))]


@pytest.mark.parametrize("sizes", [(3,), (3, 1, 5), (0, 0), (40,) * 16])
async def test_all_events_come_in_the_order_of_their_stream(sizes: tuple[int, ...]) -> None:
    streams = Streams(*sizes)
    events = [event async for event in several(streams.all())]
    assert events[0] == (0, Started((1, 2))) and streams.open == 0
    assert sum(isinstance(event, Started) for _, event in events) == 1
    for index, size in enumerate(sizes):
        mine = [event for other, event in events if other == index]
        assert [event.text for event in mine if isinstance(event, TextDelta)] == [f"{index}.{n}" for n in range(size)]
        assert isinstance(mine[-1], Finished)
    last = events[-1][1]
    assert isinstance(last, Finished)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, sum(sizes))


@pytest.mark.parametrize("sizes", [(1, 9), (9, 1)])
async def test_what_completions_copied_of_each_other_is_not_what_the_prompt_had_cached(sizes: tuple[int, int]) -> None:
    last = [event async for _, event in several(Streams(*sizes).all())][-1]
    assert isinstance(last, Finished) and last.usage == Usage(2, 10, 0)


async def test_an_error_in_one_ends_all() -> None:
    streams = Streams(9, 2, 9, fails=1)
    with pytest.raises(Unavailable):
        [event async for event in several(streams.all())]
    assert streams.open == 0


@pytest.mark.parametrize("events", [2, 5])
async def test_closing_it_closes_all(events: int) -> None:
    streams = Streams(9, 9, 9)
    async with aclosing(several(streams.all())) as merged:
        for _ in range(events):
            await anext(merged)
    assert streams.open == 0


async def test_completions_share_a_model_and_free_it(serve: Serve) -> None:
    async with serve("word " * 200, opening="Say: ") as model:
        request = GenerateRequest("a", "Say: ", SamplingOptions(0), StoppingOptions(8))
        pipeline = GeneratePipeline(model)
        events = [event async for event in several([pipeline.stream(nth(request, n)) for n in range(5)])]
        texts = ["".join(e.text for i, e in events if i == n and isinstance(e, TextDelta)) for n in range(5)]
        assert len(set(texts)) == 1 and texts[0]
        end = events[-1][1]
        assert isinstance(end, Finished) and end.usage.completion_tokens == 40
        longer = GenerateRequest("a", "Say: ", SamplingOptions(0), StoppingOptions(500))
        async with aclosing(several([pipeline.stream(nth(longer, n)) for n in range(3)])) as merged:
            async for _, event in merged:
                if isinstance(event, TextDelta):
                    break
        assert not model.handle.abort("a")
        aborted = []
        async with aclosing(several([pipeline.stream(nth(longer, n)) for n in range(3)])) as merged:
            async for _, event in merged:
                if isinstance(event, TextDelta):
                    model.handle.abort("a")
                if isinstance(event, Finished):
                    aborted.append(event.reason)
        assert aborted == [FinishReason.CANCELLED] * 3


async def test_each_follows_the_constraint_on_its_own_and_draws_with_its_own_seed(serve: Serve) -> None:
    async with serve("no", opening="Say: ") as model:
        pipeline, rule = GeneratePipeline(model), Regex("[a-z]{12}")

        async def texts(seed: int, count: int) -> list[str]:
            request = GenerateRequest("a", "Say: ", SamplingOptions(seed=seed), constraint=rule)
            events = [event async for event in several([pipeline.stream(nth(request, n)) for n in range(count)])]
            return ["".join(e.text for i, e in events if i == n and isinstance(e, TextDelta)) for n in range(count)]

        made = await texts(7, 4)
        assert len(set(made)) == 4 and all(len(text) == 12 and text.isalpha() for text in made)
        assert made == [*await texts(7, 2), *await texts(9, 1), *await texts(10, 1)]


async def test_what_all_would_refuse_is_refused_before_anything(serve: Serve) -> None:
    async with serve("x") as model:
        pipeline, request = GeneratePipeline(model), GenerateRequest("a", "x", SamplingOptions(top_p=2))
        with pytest.raises(InvalidRequest):
            await anext(several([pipeline.stream(nth(request, n)) for n in range(3)]))
