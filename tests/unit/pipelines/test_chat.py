from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

import pytest
from narthex_server.errors import InvalidRequest
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.events import ChatEvent, Finished, FinishReason, ReasoningDelta, Started, TextDelta
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest, Scoring, StoppingOptions, ToolChoice
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


async def test_every_token_is_scored_also_those_of_calls_and_thoughts(serve: Serve) -> None:
    async with serve(f"<think>\nhm\n</think>\n\nLet me see.\n{CALL}") as model:
        events = await run(model, replace(ASK, scoring=Scoring(2, 1)))
    started, end = events[0], events[-1]
    assert isinstance(started, Started) and len(started.logprobs) == len(started.prompt_ids) - 1
    assert isinstance(end, Finished) and [one.chosen.token for one in end.logprobs] == [*end.token_ids]
    assert sum((event.logprobs for event in events if isinstance(event, TextDelta)), ()) == end.logprobs


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


async def test_a_forced_call_is_opened_for_the_model(serve: Serve) -> None:
    opening = '<tool_call>\n{"name": "weather", "arguments": '
    async with serve('{"city": "Rome"}}\n</tool_call>', opening=opening) as model:
        events = await run(model, replace(ASK, tool_choice=ToolChoice(name="weather")))
    (call,) = [event for event in events if isinstance(event, ToolCall)]
    assert (call.name, call.arguments) == ("weather", '{"city": "Rome"}')


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (replace(ASK, messages=()), "messages"),
        (replace(ASK, messages=(Message("robot", "x"),)), "messages[0].role"),
        (replace(ASK, tools=(), tool_choice=ToolChoice("required")), "tool_choice"),
        (replace(ASK, tool_choice=ToolChoice(name="other")), "tool_choice"),
        (replace(ASK, stopping=StoppingOptions(max_tokens=0)), "stopping.max_tokens"),
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
