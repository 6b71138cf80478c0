"""The agent: the model speaks, its calls are run, and it goes on with their results."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from narthex_server.agent.calls import Calls
from narthex_server.agent.cutting import Cutter, Reader
from narthex_server.agent.events import AgentEvent, ToolActivity, ToolCallResult
from narthex_server.agent.host import Host
from narthex_server.agent.offer import Offer, ToolBox
from narthex_server.agent.options import AgentOptions
from narthex_server.agent.repetition import Repetition
from narthex_server.agent.results import result_text
from narthex_server.agent.spending import Allowance, Spending, bounded
from narthex_server.agent.until import until
from narthex_server.errors import Violation
from narthex_server.pipelines.events import (
    Budget,
    ChatEvent,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
)
from narthex_server.pipelines.request import ChatRequest, ToolChoice, refuse
from narthex_server.pipelines.serving import Chats
from narthex_server.principal import Principal
from narthex_server.text.messages import Message, ToolCall
from narthex_server.tools.kept_results import KeptResults
from narthex_server.tools.mcp_context import PLAIN, McpContext
from narthex_server.tools.native.read_result import ReadResultTool
from narthex_server.tools.tool import CallContext, ToolResult

UNKNOWN = Reader(8192)


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

    def __init__(
        self,
        pipeline: Chats,
        tools: ToolBox,
        host: Host | None = None,
        reader: Reader = UNKNOWN,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`stop` ends the turn that the model is at, which still says what it cost; False if it is at none."""
        self._pipeline = pipeline
        self._tools = tools
        self._host = host or Host()
        self._reader = reader
        self._stop = stop

    async def run(
        self,
        request: ChatRequest,
        principal: Principal,
        options: AgentOptions = AgentOptions(),
        deadline: float | None = None,
        mcp: McpContext | None = None,
    ) -> AsyncGenerator[AgentEvent]:
        """Yields every round's events; one Finished with the sum of what all rounds cost ends it.

        A round that calls one of the request's own `tools` ends with TOOL_CALLS, after the catalog's part of it is run;
        calls after the last allowed round are shown and not run (TOOL_ROUNDS), and so are those beyond a budget
        (BUDGET). Closing the iterator cancels everything. No slot of the engine is held while tools run. `deadline` is
        on the event loop's clock and ends tools only. With `mcp`, what a call wants of its caller is an event, and the
        caller answers through the host's `running` calls; without, nobody is asked.

        Errors: NotFound for a name in `catalog_tools` that is not in the catalog; InvalidRequest for options out of
        range and a first prompt beyond the budget; those of the pipeline.
        """
        refuse(options.validate())
        own = frozenset(tool.name for tool in request.tools)
        offer = Offer(self._tools, principal, options.catalog_tools, own)
        if not options.catalog_tools and not self._pipeline.takes_tools:
            offer.clear()  # nobody asked for tools by name, and this model cannot be offered any
        spending = Spending(options.limits, asyncio.get_running_loop().time)
        ends = [moment for moment in (deadline, spending.deadline) if moment is not None]
        context = CallContext(principal, request.request_id, min(ends, default=None), mcp or PLAIN)
        run = _Run(
            request=replace(request, tools=(*request.tools, *offer.specs)),
            own=own,
            offer=offer,
            calls=Calls(offer, options, context, self._host.running, asked=mcp is not None),
            spending=spending,
            cutter=Cutter(options.results, self._reader, self._host.kept, principal),
            repetition=Repetition(options.repeats),
        )
        try:
            async with aclosing(self._rounds(run, options.max_tool_rounds)) as events:
                async for event in events:
                    if isinstance(event.event, Finished):
                        run.finished = event.event
                    yield event
        finally:
            self._host.observer.on_run(run.finished, run.number, spending.calls)

    async def _rounds(self, run: "_Run", most: int) -> AsyncGenerator[AgentEvent]:
        while True:
            run.number += 1
            allowance = await self._allowance(run)
            if allowance is not None and allowance.tokens <= 0:
                yield run.end(allowance.budget)
                return
            turn = _Turn()
            async with aclosing(self._turn(run, turn, allowance)) as spoken:
                async for event in spoken:
                    yield AgentEvent(run.number, event)
            if turn.finished is None:  # the time was over before it began
                yield run.end(Budget.SECONDS)
                return
            mine = [call for call in turn.calls if call.name not in run.own]
            if (end := run.ended(turn.finished, allowance, most if mine else run.number)) is not None:
                yield end
                return
            made = mine[: run.spending.calls_left]
            answers: dict[str, Message] = {}
            async with aclosing(run.calls.run(made)) as activities:
                async for activity in activities:
                    shown = (
                        activity
                        if isinstance(activity, ToolActivity)
                        else await run.result(activity.call, activity.result)
                    )
                    if isinstance(shown, ToolCallResult):
                        answers[shown.tool_call_id] = Message(
                            "tool", shown.text, tool_call_id=shown.tool_call_id, name=shown.name
                        )
                    yield AgentEvent(run.number, shown)
            if (after := run.after(turn.finished, len(mine) - len(made), len(turn.calls) - len(mine))) is not None:
                yield after
                return
            run.go_on(turn.message(), [answers[call.id] for call in made], self._host.kept)

    async def _allowance(self, run: "_Run") -> Allowance | None:
        """What the next turn may generate; only the first one is refused if its prompt is beyond the budget."""
        prompt = 0
        if run.spending.counts_prompts:
            prompt = run.least_prompt
            if self._reader.tokens is not None:
                prompt = len(await self._reader.tokens.encode_chat(run.request))
        allowance = run.spending.allowance(prompt)
        if run.number == 1 and allowance is not None and allowance.tokens <= 0:
            refuse((Violation("agent.max_total_tokens", f"must be more than the prompt's {prompt} tokens"),))
        return allowance

    async def _turn(self, run: "_Run", turn: _Turn, allowance: Allowance | None) -> AsyncGenerator[ChatEvent]:
        """One turn of the model; all events but the last, which goes into `turn` like the rest."""
        request = run.request
        if allowance is not None:
            request = replace(request, stopping=bounded(request.stopping, allowance))
        spoken = until(run.spending.deadline, self._stop, self._pipeline.stream(request))
        async with aclosing(spoken) as events:
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
                    case Started() if run.number > 1:
                        continue  # said once
                yield event


@dataclass(slots=True)
class _Run:
    """One run between its rounds."""

    request: ChatRequest
    own: frozenset[str]
    offer: Offer
    calls: Calls
    spending: Spending
    cutter: Cutter
    repetition: Repetition
    number: int = 0
    least_prompt: int = 0
    finished: Finished | None = None
    reads_on: bool = False

    def end(self, budget: Budget) -> AgentEvent:
        return AgentEvent(self.number, Finished(FinishReason.BUDGET, self.spending.usage, budget=budget))

    def ended(self, turn: Finished, allowance: Allowance | None, most: int) -> AgentEvent | None:
        """The end of the run after a turn of the model; None if its calls are to be made."""
        self.spending.usage += turn.usage
        self.least_prompt = turn.usage.prompt_tokens + turn.usage.completion_tokens
        finished = replace(turn, usage=self.spending.usage)
        if turn.reason is FinishReason.CANCELLED and self.spending.late:
            return AgentEvent(self.number, replace(finished, reason=FinishReason.BUDGET, budget=Budget.SECONDS))
        bounded_here = allowance is not None and turn.usage.completion_tokens >= allowance.tokens
        if turn.reason is FinishReason.LENGTH and bounded_here and allowance is not None:
            return AgentEvent(self.number, replace(finished, reason=FinishReason.BUDGET, budget=allowance.budget))
        if turn.reason is not FinishReason.TOOL_CALLS:
            return AgentEvent(self.number, finished)
        if self.number > most:
            return AgentEvent(self.number, replace(finished, reason=FinishReason.TOOL_ROUNDS))
        if (over := self.spending.over) is not None:
            return AgentEvent(self.number, replace(finished, reason=FinishReason.BUDGET, budget=over))
        return None

    async def result(self, call: ToolCall, result: ToolResult) -> ToolCallResult:
        """What the model reads of a call's result."""
        self.spending.add_result(result)
        text = await self.cutter.fit(result_text(result))
        if note := self.repetition.note(call, result):
            text = f"{text}\n{note}"
        return ToolCallResult(call.id, call.name, result, text)

    def after(self, turn: Finished, unmade: int, own: int) -> AgentEvent | None:
        """The end of the run after its tools have run; None if the model speaks again."""
        finished = replace(turn, usage=self.spending.usage)
        if own:
            return AgentEvent(self.number, finished)
        if (over := Budget.TOOL_CALLS if unmade else self.spending.over) is not None:
            return AgentEvent(self.number, replace(finished, reason=FinishReason.BUDGET, budget=over))
        if self.repetition.endless:
            return AgentEvent(self.number, replace(finished, reason=FinishReason.REPETITION))
        return None

    def go_on(self, said: Message, answers: list[Message], kept: KeptResults) -> None:
        """The request of the next round."""
        request = self.request
        if self.cutter.cut and not self.reads_on:
            self.reads_on = True
            reader = ReadResultTool(kept, self.cutter.longest, self.offer.free("read_result"))
            request = replace(request, tools=(*request.tools, self.offer.add(reader)))
        # A forced call is forced once, otherwise the model could never answer.
        choice = ToolChoice() if request.tool_choice.forced else request.tool_choice
        # The caller chose max_tokens without knowing how much of the context the tools would take.
        stopping = replace(request.stopping, fit_context=True)
        messages = (*request.messages, said, *answers)
        scoring = replace(request.scoring, prompt=None)  # only the first round's prompt is shown
        self.request = replace(request, messages=messages, tool_choice=choice, stopping=stopping, scoring=scoring)
