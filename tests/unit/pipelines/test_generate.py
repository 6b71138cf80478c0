from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

import pytest
from narthex_server.errors import ContextOverflow, InvalidRequest
from narthex_server.pipelines.events import Finished, FinishReason, Started, TextDelta
from narthex_server.pipelines.generate import GeneratePipeline
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import (
    DryOptions,
    GenerateRequest,
    SamplingOptions,
    Scoring,
    StoppingOptions,
    nth,
)
from narthex_server.pipelines.several import several
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


async def test_what_was_cached_and_guessed_is_told_where_a_stop_string_ends_it(serve: Serve) -> None:
    said = "one two one two one two one two one two three four"
    async with serve(said, opening=PROMPT * 10) as model:
        alone = GenerateRequest("a", PROMPT * 10)
        async with aclosing(GeneratePipeline(model).stream(alone)) as events:
            whole = [event async for event in events][-1]
        stopped = GenerateRequest("a", PROMPT * 10, stopping=StoppingOptions(stop=("three",)))
        async with aclosing(GeneratePipeline(model).stream(stopped)) as events:
            finished = [event async for event in events][-1]
        assert isinstance(whole, Finished) and isinstance(finished, Finished)
        assert finished.usage.cached_tokens == finished.usage.prompt_tokens - 1
        assert finished.usage.completion_tokens == len(finished.token_ids) < whole.usage.completion_tokens


async def test_a_stop_string_in_one_of_several_completions_ends_that_one_alone(serve: Serve) -> None:
    async with serve("one two three four", opening=PROMPT) as model:
        stopping = StoppingOptions(stop=("two",))
        request = GenerateRequest("a", PROMPT)
        streams = [GeneratePipeline(model).stream(replace(request, stopping=stopping)),
                   GeneratePipeline(model).stream(nth(request, 1))]  # fmt: skip
        texts = ["", ""]
        async with aclosing(several(streams)) as events:
            async for index, event in events:
                texts[index] += event.text if isinstance(event, TextDelta) else ""
        assert texts == ["one ", "one two three four"]


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
        (GenerateRequest("a", "x", SamplingOptions(frequency_penalty=2.1)), "sampling.frequency_penalty"),
        (GenerateRequest("a", "x", SamplingOptions(presence_penalty=float("nan"))), "sampling.presence_penalty"),
        (GenerateRequest("a", "x", SamplingOptions(repetition_penalty=0)), "sampling.repetition_penalty"),
        (GenerateRequest("a", "x", SamplingOptions(logit_bias=((3, 100.5),))), "sampling.logit_bias[3]"),
        (GenerateRequest("a", "x", SamplingOptions(logit_bias=((1_000_000, 1.0),))), "sampling.logit_bias"),
        (GenerateRequest("a", "x", SamplingOptions(allowed_token_ids=(1, 1_000_000))), "sampling.allowed_token_ids"),
        (GenerateRequest("a", "x", SamplingOptions(dry=DryOptions(base=0.5))), "sampling.dry.base"),
        (GenerateRequest("a", "x", SamplingOptions(dry=DryOptions(multiplier=-1))), "sampling.dry.multiplier"),
        (
            GenerateRequest("a", "x", SamplingOptions(dry=DryOptions(sequence_breakers=("a", "")))),
            "sampling.dry.sequence_breakers",
        ),
        (
            GenerateRequest("a", "x", SamplingOptions(dry=DryOptions(sequence_breakers=("a",) * 65))),
            "sampling.dry.sequence_breakers",
        ),
        (GenerateRequest("a", "x", stopping=StoppingOptions(3, min_tokens=4)), "stopping.min_tokens"),
        (GenerateRequest("a", "x", scoring=Scoring(completion=21)), "response.logprobs"),
        (GenerateRequest("a", "x", scoring=Scoring(prompt=-1)), "response.prompt_logprobs"),
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


async def test_what_a_token_is_scored_with_stays_with_its_text(serve: Serve) -> None:
    said = "Zürich 🙂 日本 END of it"
    for name in ("qwen3", "mistral_swa"):
        async with serve(said, name=name, opening=PROMPT) as model:
            stopping = StoppingOptions(stop=("END of x", "it"))
            request = GenerateRequest("a", PROMPT, SamplingOptions(0), stopping, scoring=Scoring(1))
            events = [event async for event in GeneratePipeline(model).stream(request)]
        deltas, end = [event for event in events if isinstance(event, TextDelta)], events[-1]
        assert isinstance(end, Finished) and end.stop_string == "it"
        assert all([one.chosen.token for one in delta.logprobs] == [*delta.token_ids] for delta in deltas)
        assert sum((delta.logprobs for delta in deltas), ()) == end.logprobs
        spelled = b"".join(one.chosen.data for one in end.logprobs)
        assert spelled.startswith(said.encode() if name == "qwen3" else b" " + said.encode())
        assert all(one.candidates[0] == one.chosen and one.chosen.rank == 1 for one in end.logprobs)


async def test_a_scored_prompt_comes_with_started(serve: Serve) -> None:
    async with serve("one two", opening=PROMPT) as model:
        for prompt in (PROMPT, (5,)):
            request = GenerateRequest(
                "a", prompt, stopping=StoppingOptions(2, ignore_eos=True), scoring=Scoring(None, 2)
            )
            started, *rest = [event async for event in GeneratePipeline(model).stream(request)]
            assert isinstance(started, Started) and not any(isinstance(event, Started) for event in rest)
            assert [one.chosen.token for one in started.logprobs] == [*started.prompt_ids[1:]]
            assert all(len(one.candidates) == 2 for one in started.logprobs)


async def test_the_prompt_is_repeated_where_asked(serve: Serve) -> None:
    async with serve("one two", opening=PROMPT) as model:
        ids = tuple(model.text.tokenizer.encode(PROMPT))
        for prompt in (PROMPT, ids):
            for scoring in (Scoring(), Scoring(prompt=0)):
                request = GenerateRequest(
                    "a", prompt, stopping=StoppingOptions(stop=("Say",)), scoring=scoring, echo=True
                )
                text, finished = await run(model, request)
                assert (text, finished.reason) == (PROMPT + "one two", FinishReason.STOP)


async def test_neither_tokens_nor_strings_end_it_before_min_tokens(serve: Serve) -> None:
    async with serve("one two one two one two", opening=PROMPT) as model:
        size = len(model.text.tokenizer.encode("one two"))
        for least, wanted in ((0, "one "), (size, "one "), (size + 1, "one two one "), (3 * size + 9, None)):
            stopping = StoppingOptions(40, stop=("two",), min_tokens=least)
            text, finished = await run(model, GenerateRequest("a", PROMPT, SamplingOptions(0), stopping))
            assert finished.usage.completion_tokens >= least
            assert text == wanted if wanted else finished.stop_string is None


async def test_breakers_are_the_tokens_that_hold_them(serve: Serve) -> None:
    async with serve("x") as model:
        tokenizer = model.text.tokenizer
        found = SamplingOptions(dry=DryOptions(base=2)).resolve(model.text.defaults, tokenizer).dry
        assert found is not None and (found.multiplier, found.base, found.allowed_length) == (0.8, 2, 2)
        assert {tokenizer.encode(mark)[0] for mark in ("\n", ":", "*", '"')} <= found.breakers
        only = DryOptions(sequence_breakers=(":",)).resolve(tokenizer)
        assert only.breakers == tokenizer.ids_with(":") < found.breakers


def test_each_completion_has_its_own_seed_and_the_first_scores_the_prompt() -> None:
    request = GenerateRequest("a", "x", SamplingOptions(seed=2**64 - 1), scoring=Scoring(1, 1))
    assert [nth(request, index).sampling.seed for index in range(3)] == [2**64 - 1, 0, 1]
    assert [nth(request, index).scoring for index in range(2)] == [Scoring(1, 1), Scoring(1, None)]
    assert nth(GenerateRequest("a", "x"), 3).sampling.seed is None


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


async def test_min_tokens_hold_where_a_constraint_allows_more_and_yield_where_it_is_satisfied(serve: Serve) -> None:
    async with serve("Zürich", opening=PROMPT) as model:
        size = len(model.text.tokenizer.encode("Zürich", add_special=False))
        longer = "Zürich[a-z]{0,500}"
        for rule, least, more in ((longer, 0, 0), (longer, size + 2, 2), ("Zürich", size + 2, 0)):
            stopping = StoppingOptions(40, min_tokens=least)
            request = GenerateRequest("a", PROMPT, stopping=stopping, constraint=Regex(rule))
            text, finished = await run(model, request)
            assert text.startswith("Zürich") and finished.reason is FinishReason.STOP
            assert finished.usage.completion_tokens == size + more
