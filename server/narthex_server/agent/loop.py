"""The agent: the model speaks, its calls are run, and it goes on with their results."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from narthex_server.agent.calls import ToolBox, run_calls
from narthex_server.agent.events import AgentEvent, ToolCallResult
from narthex_server.agent.results import result_text
from narthex_server.errors import NotFound, Violation
from narthex_server.pipelines.events import Finished, FinishReason, ReasoningDelta, Started, TextDelta, Usage
from narthex_server.pipelines.request import ChatRequest, ToolChoice, refuse
from narthex_server.pipelines.serving import Chats
from narthex_server.principal import Principal
from narthex_server.text.messages import Message, ToolCall, ToolSpec
from narthex_server.tools.tool import CallContext, Tool

MAX_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Which tools of the catalog are offered (empty: all forwarded ones), and the limits of rounds and of each call."""

    catalog_tools: tuple[str, ...] = ()
    max_tool_rounds: int = 8
    tool_seconds: float = 60.0


@dataclass(slots=True)
class _Turn:
    """One assistant's turn as it grows."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    finished: Finished | None = None

    def message(self) -> Message:
        return Message("assistant", self.text, self.calls, reasoning=self.reasoning)


class AgentLoop:
    """Lets a model use the catalog's tools."""

    def __init__(self, pipeline: Chats, tools: ToolBox) -> None:
        self._pipeline = pipeline
        self._tools = tools

    async def run(
        self,
        request: ChatRequest,
        principal: Principal,
        options: AgentOptions = AgentOptions(),
        deadline: float | None = None,
        session: str = "",
    ) -> AsyncGenerator[AgentEvent]:
        """Yields every round's events; one Finished with the sum of what all rounds cost ends it.

        A round that calls one of the request's own `tools` ends with TOOL_CALLS, after the catalog's part of it is run;
        calls after the last allowed round are shown and not run (TOOL_ROUNDS). Closing the iterator cancels everything.
        No slot of the engine is held while tools run. `deadline` is on the event loop's clock and ends tools only;
        `session` is the caller's, in which they are called.

        Errors: NotFound for a name in `catalog_tools` that is not in the catalog; those of the pipeline.
        """
        if not 1 <= options.max_tool_rounds <= MAX_ROUNDS:
            refuse((Violation("max_tool_rounds", f"must be 1 to {MAX_ROUNDS}, got {options.max_tool_rounds}"),))
        own = frozenset(tool.name for tool in request.tools)
        catalog = self._offered(principal, options.catalog_tools, own)
        request = replace(request, tools=(*request.tools, *(_spec(tool) for tool in catalog)))
        offered = frozenset(tool.name for tool in catalog)
        context = CallContext(principal, request.request_id, deadline, session=session)
        usage, number = Usage(), 0
        while True:
            number += 1
            turn = _Turn()
            async with aclosing(self._round(request, turn, number)) as events:
                async for event in events:
                    yield event
            assert turn.finished is not None
            usage += turn.finished.usage
            finished = replace(turn.finished, usage=usage)
            if turn.finished.reason is not FinishReason.TOOL_CALLS:
                yield AgentEvent(number, finished)
                return
            if number > options.max_tool_rounds:
                yield AgentEvent(number, replace(finished, reason=FinishReason.TOOL_ROUNDS))
                return
            mine = [call for call in turn.calls if call.name not in own]
            results: dict[str, ToolCallResult] = {}
            async with aclosing(run_calls(self._tools, mine, offered, context, options.tool_seconds)) as activities:
                async for activity in activities:
                    if isinstance(activity, ToolCallResult):
                        results[activity.tool_call_id] = activity
                    yield AgentEvent(number, activity)
            if len(mine) < len(turn.calls):
                yield AgentEvent(number, finished)
                return
            answers = [
                Message("tool", result_text(results[call.id].result), tool_call_id=call.id, name=call.name)
                for call in mine
            ]
            # A forced call is forced once, otherwise the model could never answer.
            choice = ToolChoice() if request.tool_choice.forced else request.tool_choice
            # The caller chose max_tokens without knowing how much of the context the tools would take.
            stopping = replace(request.stopping, fit_context=True)
            messages = (*request.messages, turn.message(), *answers)
            scoring = replace(request.scoring, prompt=None)  # only the first round's prompt is shown
            request = replace(request, messages=messages, tool_choice=choice, stopping=stopping, scoring=scoring)

    async def _round(self, request: ChatRequest, turn: _Turn, number: int) -> AsyncGenerator[AgentEvent]:
        """One turn of the model; all events but the last, which goes into `turn` like the rest."""
        async with aclosing(self._pipeline.stream(request)) as events:
            async for event in events:
                match event:
                    case Finished():
                        turn.finished = event
                        return
                    case TextDelta(text):
                        turn.text += text
                    case ReasoningDelta(text):
                        turn.reasoning += text
                    case ToolCall():
                        turn.calls += (event,)
                    case Started() if number > 1:
                        continue  # said once
                yield AgentEvent(number, event)

    def _offered(self, principal: Principal, names: tuple[str, ...], own: frozenset[str]) -> list[Tool]:
        tools = {tool.name: tool for tool in self._tools.list(principal)}
        if missing := [name for name in names if name not in tools]:
            raise NotFound(
                f"the catalog has no tool {missing[0]!r}; ListTools shows what there is", metadata={"tool": missing[0]}
            )
        if names:
            return [tools[name] for name in names if name not in own]
        if not self._pipeline.takes_tools:
            return []  # nobody asked for tools by name, and this model cannot be offered any
        return [tool for tool in self._tools.offered(principal) if tool.name not in own]


def _spec(tool: Tool) -> ToolSpec:
    return ToolSpec(tool.name, tool.description, tool.input_schema.decode("utf-8", "replace"))
