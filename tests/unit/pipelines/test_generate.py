from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing

import pytest
from narthex_server.errors import ContextOverflow, InvalidRequest
from narthex_server.pipelines.events import Finished, FinishReason, Started, TextDelta
from narthex_server.pipelines.generate import GeneratePipeline
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import GenerateRequest, SamplingOptions, StoppingOptions
from narthex_server.text.constraint import Choice, JsonSchema, Regex

Serve = Callable[..., AbstractAsyncContextManager[TextModel]]
PROMPT = "Say: "


async def run(model: TextModel, request: GenerateRequest) -> tuple[str, Finished]:
    text, finished, token_ids = "", None, ()
    async with aclosing(GeneratePipeline(model).stream(request)) as events:
        async for event in events:
            match event:
                case TextDelta(piece, ids):
                    assert "\ufffd" not in piece
                    text += piece
                    token_ids += ids
                case Finished():
                    finished = event
                case Started(ids):
                    assert ids == tuple(model.text.tokenizer.encode(PROMPT))
    assert finished is not None and finished.token_ids == token_ids
    return text, finished


async def test_a_prompt_is_continued_to_the_models_end(serve: Serve) -> None:
    async with serve("Zürich 🙂 日本", opening=PROMPT) as model:
        text, finished = await run(model, GenerateRequest("a", PROMPT))
        ids = tuple(model.text.tokenizer.encode("Zürich 🙂 日本"))
        assert text == "Zürich 🙂 日本"
        assert (finished.reason, finished.token_ids) == (FinishReason.STOP, ids)
        assert finished.usage.completion_tokens == len(ids)


async def test_a_stop_string_ends_it_and_frees_the_slot(serve: Serve) -> None:
    async with serve("one two three four", opening=PROMPT) as model:
        for include, expected in ((False, "one two "), (True, "one two three")):
            stopping = StoppingOptions(stop=("three",), include_stop=include)
            text, finished = await run(model, GenerateRequest("a", PROMPT, stopping=stopping))
            assert (text, finished.stop_string, finished.reason) == (expected, "three", FinishReason.STOP)
            said = model.text.tokenizer.decode(finished.token_ids)
            assert said.startswith("one two three") and finished.usage.completion_tokens == len(finished.token_ids)


async def test_max_tokens_ends_it_with_length(serve: Serve) -> None:
    async with serve("one two three four", opening=PROMPT) as model:
        _, finished = await run(model, GenerateRequest("a", PROMPT, stopping=StoppingOptions(max_tokens=3)))
        assert (finished.reason, len(finished.token_ids)) == (FinishReason.LENGTH, 3)


async def test_the_context_is_filled_when_max_tokens_is_unset(serve: Serve) -> None:
    async with serve("word " * 200, opening=PROMPT, max_len=64) as model:
        _, finished = await run(model, GenerateRequest("a", PROMPT))
        assert finished.reason is FinishReason.LENGTH
        assert finished.usage.prompt_tokens + finished.usage.completion_tokens == 64


async def test_a_stop_token_of_the_callers_is_named(serve: Serve) -> None:
    async with serve("one two", opening=PROMPT) as model:
        wanted = model.text.tokenizer.encode("one two")[2]
        stopping = StoppingOptions(stop_token_ids=frozenset({wanted}))
        _, finished = await run(model, GenerateRequest("a", PROMPT, stopping=stopping))
        assert (finished.stop_token_id, finished.reason, len(finished.token_ids)) == (wanted, FinishReason.STOP, 2)


async def test_end_tokens_end_nothing_when_ignored(serve: Serve) -> None:
    async with serve("one", opening=PROMPT) as model:
        stopping = StoppingOptions(max_tokens=20, ignore_eos=True)
        text, finished = await run(model, GenerateRequest("a", PROMPT, stopping=stopping))
        assert (text, finished.reason) == ("one", FinishReason.LENGTH)


async def test_what_does_not_fit_is_refused_with_numbers(serve: Serve) -> None:
    async with serve("x", max_len=16) as model:
        with pytest.raises(ContextOverflow, match=r"20 prompt tokens and max_tokens 4 make 24, .* is 16"):
            await run(model, GenerateRequest("a", (5,) * 20, stopping=StoppingOptions(max_tokens=4)))
        with pytest.raises(ContextOverflow, match=r"16 tokens, and the model's context of 16"):
            await run(model, GenerateRequest("a", (5,) * 16))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (GenerateRequest("a", "x", SamplingOptions(temperature=-1)), "sampling.temperature"),
        (GenerateRequest("a", "x", SamplingOptions(top_p=float("nan"))), "sampling.top_p"),
        (GenerateRequest("a", "x", stopping=StoppingOptions(max_tokens=0)), "stopping.max_tokens"),
        (GenerateRequest("a", "x", stopping=StoppingOptions(max_tokens=10**30)), "stopping.max_tokens"),
        (GenerateRequest("a", "x", stopping=StoppingOptions(stop=("",))), "stopping.stop"),
        (GenerateRequest("a", "x", stopping=StoppingOptions(stop=("x",) * 17)), "stopping.stop"),
        (GenerateRequest("a", (1, 1_000_000)), "prompt"),
    ],
)
async def test_values_out_of_range_are_refused_by_field(serve: Serve, request_: GenerateRequest, field: str) -> None:
    async with serve("x") as model:
        with pytest.raises(InvalidRequest) as caught:
            await run(model, request_)
        assert [violation.field for violation in caught.value.violations] == [field]


async def test_an_empty_prompt_is_refused(serve: Serve) -> None:
    async with serve("x") as model:
        with pytest.raises(InvalidRequest, match="empty"):
            await run(model, GenerateRequest("a", ""))


async def test_closing_the_stream_frees_the_slot(serve: Serve) -> None:
    async with serve("word " * 200, opening=PROMPT) as model:
        for _ in range(model.handle.slots + 1):
            async with aclosing(GeneratePipeline(model).stream(GenerateRequest("a", PROMPT))) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        break
        assert not model.handle.abort("a")


async def test_abort_ends_with_cancelled(serve: Serve) -> None:
    async with serve("word " * 200, opening=PROMPT) as model:
        finished = None
        async with aclosing(GeneratePipeline(model).stream(GenerateRequest("a", PROMPT))) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    model.handle.abort("a")
                finished = event
        assert isinstance(finished, Finished) and finished.reason is FinishReason.CANCELLED


async def test_a_constraint_holds_whatever_the_model_would_say(serve: Serve) -> None:
    async with serve("Zürich 🙂 日本", opening=PROMPT) as model:
        options = ("Zürich 🙂 Nippon", "Basel")
        text, finished = await run(model, GenerateRequest("a", PROMPT, constraint=Choice(options)))
        assert text == options[0] and finished.reason is FinishReason.STOP
        text, finished = await run(model, GenerateRequest("b", PROMPT, constraint=Regex("[a-z]{3}")))
        assert len(text) == 3 and text.isalpha() and text.isascii()


async def test_a_constrained_text_that_is_cut_off_says_so(serve: Serve) -> None:
    constraint, stopping = JsonSchema('{"type": "object", "required": ["a"]}'), StoppingOptions(2)
    async with serve("no", opening=PROMPT) as model:
        text, finished = await run(model, GenerateRequest("a", PROMPT, stopping=stopping, constraint=constraint))
    assert text.startswith("{") and finished.reason is FinishReason.LENGTH


async def test_a_constraint_needs_an_end(serve: Serve) -> None:
    request = GenerateRequest("a", PROMPT, stopping=StoppingOptions(5, ignore_eos=True), constraint=Regex("a"))
    async with serve("no", opening=PROMPT) as model:
        with pytest.raises(InvalidRequest, match="ignore_eos"):
            await run(model, request)
