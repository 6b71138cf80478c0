import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace

import pytest
from narthex.scopes import ToolScope
from narthex_server.agent.events import AgentEvent, ToolActivity, ToolCallResult
from narthex_server.agent.loop import AgentLoop
from narthex_server.agent.options import AgentOptions
from narthex_server.errors import InvalidRequest, NotFound
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.events import (
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallStarted,
)
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest, StoppingOptions, ToolChoice
from narthex_server.principal import LOCAL, Principal
from narthex_server.text.messages import Message, ToolCall, ToolSpec
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.tool import CallContext, InputRequest, InputRequired, Progress, Tool, ToolEvent, ToolResult

Serve = Callable[..., AbstractAsyncContextManager[TextModel]]
Body = Callable[[bytes], AsyncIterator[ToolEvent]]
ASK = ChatRequest("a", (Message("user", "Add."),))
SCHEMA = b'{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


def call(name: str, arguments: str = '{"a": 1}') -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def result(text: str) -> ToolResult:
    return ToolResult(json.dumps([{"type": "text", "text": text}]).encode())


@dataclass
class Native:
    """A native tool with the given body; remembers what it was called with."""

    name: str
    body: Body
    seen: list[bytes] = field(default_factory=list)

    @property
    def tool(self) -> Tool:
        return Tool(self.name, "", "A tool.", SCHEMA)

    async def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
        self.seen.append(arguments)
        async for event in self.body(arguments):
            yield event


def native(name: str, body: Body | None = None) -> Native:
    async def increment(arguments: bytes) -> AsyncIterator[ToolEvent]:
        yield Progress(1, 2, "half way")
        yield result(str(json.loads(arguments)["a"] + 1))

    return Native(name, body or increment)


async def run(
    model: TextModel, tools: list[Native], request: ChatRequest = ASK, options: AgentOptions | None = None
) -> list[AgentEvent]:
    options = options or AgentOptions(tuple(tool.name for tool in tools))
    loop = AgentLoop(ChatPipeline(model), Catalog(tools))
    async with aclosing(loop.run(request, LOCAL, options)) as events:
        return [event async for event in events]


def text(events: list[AgentEvent], number: int) -> str:
    return "".join(each.event.text for each in events if each.round == number and isinstance(each.event, TextDelta))


def results(events: list[AgentEvent]) -> dict[str, ToolResult]:
    return {each.event.name: each.event.result for each in events if isinstance(each.event, ToolCallResult)}


def finished(events: list[AgentEvent]) -> Finished:
    last = events[-1].event
    assert isinstance(last, Finished)
    assert not any(isinstance(each.event, Finished) for each in events[:-1])
    return last


async def test_results_are_fed_back_until_the_model_answers(serve: Serve) -> None:
    tool = native("inc")
    async with serve(f"Let me see.\n{call('inc')}", "It is 2.") as model:
        events = await run(model, [tool])
    assert [type(each.event) for each in events if not isinstance(each.event, TextDelta | ReasoningDelta)] == [
        *(Started, ToolCallStarted, ToolCall, ToolActivity, ToolCallResult, Finished),
    ]
    assert (text(events, 1), text(events, 2)) == ("Let me see.", "It is 2.")
    assert tool.seen == [b'{"a": 1}'] and results(events)["inc"] == result("2")
    end = finished(events)
    assert end.reason is FinishReason.STOP
    assert isinstance(events[0].event, Started)
    assert end.usage.prompt_tokens > 2 * len(events[0].event.prompt_ids) and end.usage.cached_tokens > 0


async def test_a_max_tokens_that_fits_the_first_round_only_is_bounded_in_the_next(serve: Serve) -> None:
    async with serve(call("inc"), "It is 2.") as model:
        first = (await run(model, [native("inc")]))[0].event
        assert isinstance(first, Started)
        limit = model.max_context - len(first.prompt_ids)
        request = replace(ASK, request_id="b", stopping=StoppingOptions(max_tokens=limit))
        events = await run(model, [native("inc")], request)
    assert text(events, 2) == "It is 2." and finished(events).reason is FinishReason.STOP


async def test_a_tool_that_asks_its_caller_tells_the_model_that_nobody_can_answer(serve: Serve) -> None:
    async def ask(arguments: bytes) -> AsyncIterator[ToolEvent]:
        yield InputRequired("c", (InputRequest("1", "elicitation/create", b"{}"),), "state")

    async with serve(call("ask"), "I see.") as model, asyncio.timeout(10):
        events = await run(model, [native("ask", ask)])
    assert results(events)["ask"].is_error and text(events, 2) == "I see."


async def test_calls_of_a_round_run_at_the_same_time(serve: Serve) -> None:
    both = asyncio.Barrier(2)

    async def meet(arguments: bytes) -> AsyncIterator[ToolEvent]:
        await both.wait()
        yield result("met")

    async with serve(call("x") + call("y"), "Done.") as model, asyncio.timeout(10):
        events = await run(model, [native("x", meet), native("y", meet)])
    assert set(results(events)) == {"x", "y"} and text(events, 2) == "Done."


async def test_failures_are_results_that_the_model_reads(serve: Serve) -> None:
    async def crash(arguments: bytes) -> AsyncIterator[ToolEvent]:
        raise RuntimeError("secret")
        yield

    async def give_up(arguments: bytes) -> AsyncIterator[ToolEvent]:
        raise asyncio.CancelledError
        yield

    said = call("inc", '{"a": "one"}') + call("nope") + call("crash") + call("quit")
    async with serve(said, "I see.") as model, asyncio.timeout(10):
        events = await run(model, [native("inc"), native("crash", crash), native("quit", give_up)])
    found = results(events)
    assert all(outcome.is_error for outcome in found.values()) and len(found) == 4
    assert b"there is no tool 'nope'; there are: crash, inc, quit" in found["nope"].content
    assert b"a" in found["inc"].content and b"secret" not in found["crash"].content
    assert text(events, 2) == "I see." and finished(events).reason is FinishReason.STOP


async def test_a_tool_that_takes_too_long_is_given_up(serve: Serve) -> None:
    ended = asyncio.Event()

    async def hang(arguments: bytes) -> AsyncIterator[ToolEvent]:
        try:
            await asyncio.Event().wait()
            yield result("never")
        finally:
            ended.set()

    async with serve(call("hang"), "Too slow.") as model, asyncio.timeout(10):
        events = await run(model, [native("hang", hang)], options=AgentOptions(("hang",), tool_seconds=0.05))
    assert results(events)["hang"].is_error and ended.is_set() and text(events, 2) == "Too slow."


async def test_calls_after_the_last_round_are_shown_and_not_run(serve: Serve) -> None:
    tool = native("inc")
    async with serve(call("inc")) as model:
        events = await run(model, [tool], options=AgentOptions(("inc",), max_tool_rounds=2))
    assert finished(events).reason is FinishReason.TOOL_ROUNDS
    assert len(tool.seen) == 2 and len([each for each in events if isinstance(each.event, ToolCall)]) == 3


async def test_the_callers_own_tools_end_the_answer_after_the_catalogs_have_run(serve: Serve) -> None:
    tool = native("inc")
    request = replace(ASK, tools=(ToolSpec("mine", "", "{}"),))
    async with serve(call("mine", "{}") + call("inc")) as model:
        events = await run(model, [tool], request)
    assert finished(events).reason is FinishReason.TOOL_CALLS and set(results(events)) == {"inc"}


async def test_a_forced_call_is_forced_once(serve: Serve) -> None:
    tool = native("inc")
    request = replace(ASK, tool_choice=ToolChoice(name="inc"))
    async with serve(call("inc"), "Two.") as model:  # of the first turn, the part up to the arguments is given
        events = await run(model, [tool], request)
    assert tool.seen == [b'{"a": 1}'] and text(events, 2) == "Two."
    assert finished(events).reason is FinishReason.STOP


async def test_closing_the_answer_cancels_the_tools(serve: Serve) -> None:
    ended = asyncio.Event()

    async def hang(arguments: bytes) -> AsyncIterator[ToolEvent]:
        try:
            yield Progress(1)
            await asyncio.Event().wait()
        finally:
            ended.set()

    tools = Catalog([native("hang", hang)])
    async with serve(call("hang")) as model, asyncio.timeout(10):
        loop = AgentLoop(ChatPipeline(model), tools)
        async with aclosing(loop.run(ASK, LOCAL, AgentOptions(("hang",)))) as events:
            async for each in events:
                if isinstance(each.event, ToolActivity):
                    break
        assert ended.is_set()
        assert model.handle.snapshot().running == 0


async def test_only_forwarded_tools_are_offered_unless_named(serve: Serve) -> None:
    tool = native("inc")
    async with serve(call("inc")) as model:
        events = await run(model, [tool], options=AgentOptions())
        assert not tool.seen and text(events, 1) == call("inc")
        with pytest.raises(NotFound, match="'other'"):
            await run(model, [tool], options=AgentOptions(("other",)))
        with pytest.raises(InvalidRequest, match="max_tool_rounds"):
            await run(model, [tool], options=AgentOptions(("inc",), max_tool_rounds=0))


async def test_a_model_gets_the_tools_of_its_caller_alone(serve: Serve) -> None:
    inc, other = native("inc"), native("other")
    caller = Principal("ann", "t", ToolScope(("other",)))
    async with serve(call("inc"), "I see.") as model:
        loop = AgentLoop(ChatPipeline(model), Catalog([inc, other]))
        async with aclosing(loop.run(ASK, caller, AgentOptions(("other",)))) as run_of_other:
            events = [event async for event in run_of_other]
        with pytest.raises(NotFound, match="'inc'"):
            await anext(loop.run(replace(ASK, request_id="b"), caller, AgentOptions(("inc",))))
    assert not inc.seen and b"there is no tool 'inc'; there are: other" in results(events)["inc"].content
