"""The agent: the model speaks, its calls are run, and it goes on with their results."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from narthex_server.agent.calls import Calls
from narthex_server.agent.cutting import Cutter, Reader
from narthex_server.agent.events import AgentEvent, ToolActivity, ToolCallResult
from narthex_server.agent.host import Host
from narthex_server.agent.offer import Offer, ToolBox
from narthex_server.agent.options import AgentOptions
from narthex_server.agent.repetition import Repetition
from narthex_server.agent.run import Run
from narthex_server.agent.spending import Allowance, Spending, bounded
from narthex_server.agent.turn import Turn
from narthex_server.agent.until import until
from narthex_server.errors import Violation
from narthex_server.pipelines.events import (
    Budget,
    ChatEvent,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
)
from narthex_server.pipelines.request import ChatRequest, refuse
from narthex_server.pipelines.serving import Chats
from narthex_server.principal import Principal
from narthex_server.text.messages import ToolCall
from narthex_server.tools.mcp_context import PLAIN, McpContext
from narthex_server.tools.tool import CallContext

UNKNOWN = Reader(8192)


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
        session: str = "",
    ) -> AsyncGenerator[AgentEvent]:
        """Yields every round's events; one Finished with the sum of what all rounds cost ends it.

        A round that calls one of the request's own `tools` ends with TOOL_CALLS, after the catalog's part of it is run;
        calls after the last allowed round are shown and not run (TOOL_ROUNDS), and so are those beyond a budget
        (BUDGET). Closing the iterator cancels everything. No slot of the engine is held while tools run. `deadline` is
        on the event loop's clock and ends tools only. With `mcp`, what a call wants of its caller is an event, and the
        caller answers through the host's `running` calls; without, nobody is asked. `session`
        is the caller's own, in which tools are called.

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
        context = CallContext(principal, request.request_id, min(ends, default=None), mcp or PLAIN, session=session)
        run = Run(
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

    async def _rounds(self, run: Run, most: int) -> AsyncGenerator[AgentEvent]:
        while True:
            run.number += 1
            allowance = await self._allowance(run)
            if allowance is not None and allowance.tokens <= 0:
                yield run.end(allowance.budget)
                return
            turn = Turn()
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
            async with aclosing(self._called(run, turn, made)) as reported:
                async for shown in reported:
                    yield AgentEvent(run.number, shown)
            if (after := run.after(turn.finished, len(mine) - len(made), len(turn.calls) - len(mine))) is not None:
                yield after
                return
            run.go_on(turn.messages(made), self._host.kept)

    async def _allowance(self, run: Run) -> Allowance | None:
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

    async def _turn(self, run: Run, turn: Turn, allowance: Allowance | None) -> AsyncGenerator[ChatEvent]:
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

    @staticmethod
    async def _called(run: Run, turn: Turn, made: Sequence[ToolCall]) -> AsyncGenerator[ToolActivity | ToolCallResult]:
        """Runs the calls; their results also go into `turn`."""
        async with aclosing(run.calls.run(made)) as activities:
            async for activity in activities:
                if isinstance(activity, ToolActivity):
                    yield activity
                    continue
                result = await run.result(activity.call, activity.result)
                turn.results[result.tool_call_id] = result
                yield result
