import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

import pytest
from narthex_server.errors import InvalidRequest
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.events import (
    ChatEvent,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallStarted,
)
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest, Scoring, StoppingOptions, ToolChoice
from narthex_server.text.constraint import Choice, Regex
from narthex_server.text.messages import Message, ToolCall, ToolSpec

Serve = Callable[..., AbstractAsyncContextManager[TextModel]]
WEATHER = ToolSpec("weather", "The weather.", '{"type": "object"}')
ASK = ChatRequest("a", (Message("user", "Weather?"),), (WEATHER,))
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


async def run(model: TextModel, request: ChatRequest) -> list[ChatEvent]:
    async with aclosing(ChatPipeline(model).stream(request)) as events:
        return [event async for event in events]


def text(events: list[ChatEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_a_turn_is_streamed_as_text(serve: Serve) -> None:
    async with serve("Hello 🙂 you") as model:
        events = await run(model, ChatRequest("a", (Message("user", "Hi"),)))
    assert isinstance(events[0], Started) and text(events) == "Hello 🙂 you"
    assert isinstance(events[-1], Finished) and events[-1].reason is FinishReason.STOP
    assert sum((event.token_ids for event in events if isinstance(event, TextDelta)), ()) == events[-1].token_ids


async def test_calls_come_out_of_the_text(serve: Serve) -> None:
    async with serve(f"Let me see.\n{CALL}\n{CALL}") as model:
        events = await run(model, ASK)
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [("weather", '{"city": "Paris"}')] * 2
    assert calls[0].id != calls[1].id and text(events) == "Let me see."
    assert isinstance(events[-1], Finished) and events[-1].reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize("choice", [ToolChoice(), ToolChoice("required")])
async def test_every_token_is_scored_also_those_of_calls_and_thoughts(serve: Serve, choice: ToolChoice) -> None:
    async with serve(f"<think>\nhm\n</think>\n\n{CALL}") as model:
        events = await run(model, replace(ASK, tool_choice=choice, scoring=Scoring(2, 1), max_thoughts=20))
    started, end = events[0], events[-1]
    assert isinstance(started, Started) and len(started.logprobs) == len(started.prompt_ids) - 1
    assert {ReasoningDelta, ToolCallStarted, ToolCall} <= {*map(type, events)}
    assert isinstance(end, Finished) and [one.chosen.token for one in end.logprobs] == [*end.token_ids]
    assert sum((event.logprobs for event in events if isinstance(event, TextDelta)), ()) == end.logprobs
    assert len(end.logprobs) == end.usage.completion_tokens


async def test_what_is_said_between_thoughts_and_calls_carries_the_scores_up_to_it(serve: Serve) -> None:
    async with serve(f"<think>\nhm\n</think>\n\nLet me see.\n{CALL}") as model:
        events = await run(model, replace(ASK, scoring=Scoring(0)))
    deltas, end = [event for event in events if isinstance(event, TextDelta)], events[-1]
    assert isinstance(end, Finished) and text(events) == "Let me see."
    assert deltas[0].text and calls(events)
    assert sum((delta.logprobs for delta in deltas), ()) == end.logprobs


async def test_scores_are_the_models_own_whatever_a_constraint_allows(serve: Serve) -> None:
    request = replace(ASK, tools=(), constraint=Choice(("red",)), scoring=Scoring(1))
    request = replace(request, template_options={"enable_thinking": False})
    async with serve("blue", opening="</think>\n\n") as model:
        end = (await run(model, request))[-1]
    assert isinstance(end, Finished)
    scored = end.logprobs[0]
    assert scored.chosen.data.startswith(b"r") and b"blue".startswith(scored.candidates[0].data)
    assert scored.chosen.logprob < -40 and scored.chosen.rank > 1


async def test_a_broken_call_is_text(serve: Serve) -> None:
    broken = '<tool_call>\n{"name": "weather", "arguments": {"city": \n</tool_call>'
    async with serve(broken) as model:
        events = await run(model, ASK)
    assert text(events) == broken
    assert isinstance(events[-1], Finished) and events[-1].reason is FinishReason.STOP


async def test_without_tools_nothing_is_a_call(serve: Serve) -> None:
    async with serve(CALL) as model:
        for request in (replace(ASK, tools=()), replace(ASK, tool_choice=ToolChoice("none"))):
            assert text(await run(model, request)) == CALL


async def test_marks_that_are_special_tokens_still_reach_the_parser(serve: Serve) -> None:
    said = '[TOOL_CALLS] [{"name": "weather", "arguments": {}}]'
    async with serve(said, name="mistral_swa", opening="[/INST]") as model:
        events = await run(model, ASK)
        assert [event.name for event in events if isinstance(event, ToolCall)] == ["weather"]


async def test_reasoning_is_told_apart(serve: Serve) -> None:
    async with serve(f"<think>\nhm, {CALL}\n</think>\n\nSunny.") as model:
        events = await run(model, ASK)
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert (thought, text(events)) == (f"hm, {CALL}", "Sunny.")
    end = events[-1]
    assert isinstance(end, Finished) and 0 < end.usage.reasoning_tokens < end.usage.completion_tokens
    assert not any(isinstance(event, ToolCall) for event in events)


def calls(events: list[ChatEvent]) -> list[ToolCall]:
    return [event for event in events if isinstance(event, ToolCall)]


SCHEMA = '{"properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false}'
COUNT = ToolSpec("count", "Counts.", SCHEMA, strict=True)
NONSENSE = "I would rather talk about { the } weather, at length."


async def test_a_call_is_said_to_begin_before_it_is_complete(serve: Serve) -> None:
    async with serve(f"Let me see.\n{CALL}\n{CALL}") as model:
        events = await run(model, ASK)
    order = [event.id for event in events if isinstance(event, ToolCallStarted | ToolCall)]
    assert order == [call.id for call in calls(events) for _ in range(2)]
    assert [event.name for event in events if isinstance(event, ToolCallStarted)] == ["weather", "weather"]


async def test_a_call_of_a_tool_that_is_not_offered_begins_when_it_is_complete(serve: Serve) -> None:
    async with serve('<tool_call>{"name": "rain", "arguments": ') as model:
        assert not any(isinstance(event, ToolCallStarted) for event in await run(model, ASK))
    async with serve(CALL.replace("weather", "rain")) as model:
        events = await run(model, ASK)
    assert [type(event) for event in events[1:-1]] == [ToolCallStarted, ToolCall]


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice(name="count")])
@pytest.mark.parametrize("said", [NONSENSE, CALL, ""])
async def test_a_forced_call_comes_whatever_the_model_would_say(serve: Serve, choice: ToolChoice, said: str) -> None:
    request = replace(ASK, tools=(WEATHER, COUNT), tool_choice=choice, stopping=StoppingOptions(200))
    request = replace(request, template_options={"enable_thinking": False})
    async with serve(said, opening="</think>\n\n") as model:
        events = await run(model, request)
    end = events[-1]
    assert isinstance(end, Finished)
    if end.reason is FinishReason.LENGTH:  # cut off, and until then a call
        assert text(events).startswith("<tool_call>") and not calls(events)
        return
    assert end.reason is FinishReason.TOOL_CALLS and calls(events) and not text(events).strip()
    for call in calls(events):
        assert call.name in (choice.name or "weather count")
        assert call.name == "weather" or type(json.loads(call.arguments)["n"]) is int


async def test_a_model_that_thinks_may_do_so_before_a_forced_call(serve: Serve) -> None:
    async with serve(f"<think>\nhm\n</think>\n\n{CALL}") as model:
        events = await run(model, replace(ASK, tool_choice=ToolChoice("required")))
    assert [type(event) for event in events[1:-1]] == [ReasoningDelta] * (len(events) - 4) + [ToolCallStarted, ToolCall]


async def test_strict_arguments_hold_once_a_call_begins_and_not_before(serve: Serve) -> None:
    request = replace(ASK, tools=(WEATHER, COUNT), stopping=StoppingOptions(200))
    async with serve(NONSENSE) as model:
        assert text(await run(model, request)) == NONSENSE
    async with serve('Well.<tool_call>\n{"name": "count", "arguments": {"n": 7}}\n</tool_call>Done.') as model:
        events = await run(model, request)
        assert (text(events), [call.arguments for call in calls(events)]) == ("Well.Done.", ['{"n": 7}'])
    async with serve(
        'Well.<tool_call>\n{"name": "count", "arguments": {"m": "seven", "x": [1, 2]}}\n</tool_call>'
    ) as model:
        events = await run(model, request)
    assert all(json.loads(call.arguments).keys() == {"n"} for call in calls(events))
    assert isinstance(events[-1], Finished) and (calls(events) or events[-1].reason is FinishReason.LENGTH)


@pytest.mark.parametrize("said", ["blue", "<think>\nhm, red\n</think>\n\nblue"])
async def test_a_constraint_holds_after_the_thoughts(serve: Serve, said: str) -> None:
    async with serve(said) as model:
        events = await run(model, replace(ASK, tools=(), constraint=Choice(("red", "blue"))))
    assert text(events) == "blue"
    assert isinstance(events[-1], Finished) and events[-1].reason is FinishReason.STOP
    assert any(isinstance(event, ReasoningDelta) for event in events) is said.startswith("<think>")


async def test_where_the_template_has_closed_the_thoughts_all_is_constrained(serve: Serve) -> None:
    request = replace(
        ASK, tools=(), constraint=Choice(("<think>x</think>y",)), template_options={"enable_thinking": False}
    )
    for said in ("", "The blue one", "<think>x</thought>y"):
        async with serve(said, opening="</think>\n\n") as model:
            assert text(await run(model, request)) == "<think>x</think>y"


async def test_with_tools_a_turn_is_calls_or_the_constrained_text(serve: Serve) -> None:
    request = replace(ASK, constraint=Choice(("red", "blue")))
    async with serve(CALL) as model:
        events = await run(model, request)
        assert [call.name for call in calls(events)] == ["weather"] and not text(events)
    async with serve("blue") as model:
        assert text(await run(model, request)) == "blue"


async def test_a_constrained_text_keeps_its_first_space(serve: Serve) -> None:
    async with serve("", name="mistral_swa", opening="[/INST]") as model:
        assert text(await run(model, replace(ASK, tools=(), constraint=Choice((" a b",))))) == " a b"


async def test_thinking_is_ended_after_so_many_tokens(serve: Serve) -> None:
    async with serve("<think>\n" + "one more thing. " * 40) as model:
        events = await run(model, replace(ASK, tools=(), max_thoughts=9, constraint=Choice(("red", "blue"))))
    assert isinstance(events[-1], Finished) and text(events) in ("red", "blue")
    assert 9 <= events[-1].usage.reasoning_tokens <= 12


async def test_a_model_that_does_not_think_has_no_budget_for_it(serve: Serve) -> None:
    async with serve("Hello", name="mistral_swa", opening="[/INST]") as model:
        assert text(await run(model, replace(ASK, tools=(), max_thoughts=0))) == "Hello"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (replace(ASK, messages=()), "messages"),
        (replace(ASK, messages=(Message("robot", "x"),)), "messages[0].role"),
        (replace(ASK, tools=(), tool_choice=ToolChoice("required")), "tool_choice"),
        (replace(ASK, tool_choice=ToolChoice(name="other")), "tool_choice"),
        (replace(ASK, stopping=StoppingOptions(max_tokens=0)), "stopping.max_tokens"),
        (replace(ASK, constraint=Regex("a(b")), "constraint.regex"),
        (replace(ASK, constraint=Choice(())), "constraint.choice.options"),
        (replace(ASK, constraint=Regex("a"), stopping=StoppingOptions(ignore_eos=True)), "stopping.ignore_eos"),
        (replace(ASK, tools=(WEATHER, replace(COUNT, parameters='{"not": {}}'))), "tools[1].parameters"),
    ],
)
async def test_requests_that_make_no_sense_are_refused_by_field(
    serve: Serve, request_: ChatRequest, field: str
) -> None:
    async with serve("x") as model:
        with pytest.raises(InvalidRequest) as caught:
            await run(model, request_)
        assert [violation.field for violation in caught.value.violations] == [field]


async def test_a_model_without_template_or_without_tools_says_so(serve: Serve) -> None:
    async with serve("x") as model:
        mute = replace(model, text=replace(model.text, template=None))
        with pytest.raises(InvalidRequest, match="no chat template"):
            await run(mute, ASK)
    async with serve("x", name="gemma3", opening="<start_of_turn>model\n") as model:
        with pytest.raises(InvalidRequest, match="cannot use tools"):
            await run(model, ASK)


async def test_a_long_conversation_is_tokenized_off_the_loop_with_the_same_result(serve: Serve) -> None:
    async with serve("fine", max_len=16_384) as model:
        request = ChatRequest("a", (Message("user", "lorem ipsum " * 1_000),))
        events = await run(model, request)
        assert isinstance(events[0], Started) and text(events) == "fine"
        template = model.text.template
        assert template is not None
        rendered = template.render(request.messages)
        assert events[0].prompt_ids == tuple(model.text.tokenizer.encode(rendered, add_special=False))
