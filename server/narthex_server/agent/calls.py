"""All tool calls of one round, several at the same time."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import cast

from narthex_server.agent.asking import answered, approve
from narthex_server.agent.events import ToolActivity, ToolCallEnded
from narthex_server.agent.offer import Offer
from narthex_server.agent.options import AgentOptions
from narthex_server.agent.results import error_result
from narthex_server.errors import DeadlineExceeded, FailedPrecondition, NarthexError
from narthex_server.text.messages import ToolCall
from narthex_server.tools.inputs import Inputs, RunningCalls
from narthex_server.tools.tool import CallContext, InputRequired, Log, Progress, ToolEvent, ToolResult

MAX_ASKED = 8
"""How often one call may end with a wish for input and be made again."""

MAX_NEWS = 1000
"""Events that wait for a slow reader; with more, progress and log messages are dropped, and nothing else is."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calls:
    """Makes the calls of a run. With `asked`, the caller can be asked meanwhile, and answers through `running`."""

    offer: Offer
    options: AgentOptions
    context: CallContext
    running: RunningCalls
    asked: bool

    async def run(self, calls: Sequence[ToolCall]) -> AsyncGenerator[ToolActivity | ToolCallEnded]:
        """Runs every call and yields what they report as it comes, each call's result last.

        A call that fails becomes an error result; closing the iterator cancels all that still run.
        """
        events: asyncio.Queue[ToolActivity | ToolCallEnded] = asyncio.Queue()
        turns = asyncio.Semaphore(self.options.parallel)

        def put(event: ToolActivity | ToolCallEnded) -> None:
            news = isinstance(event, ToolActivity) and isinstance(event.activity, Progress | Log)
            if not news or events.qsize() < MAX_NEWS:
                events.put_nowait(event)

        tasks = [asyncio.create_task(_Call(self, call, turns, put).run()) for call in calls]
        try:
            running = len(tasks)
            while running:
                event = await events.get()
                running -= isinstance(event, ToolCallEnded)
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def inputs(self) -> Iterator[Inputs | None]:
        """Where one call's questions are answered; None where nobody can be asked."""
        if not self.asked:
            yield None
            return
        principal = self.context.principal
        with self.running.enter(principal.tenant, "", f"{self.context.request_id}/call") as inputs:
            yield inputs

    def refused(self, name: str, arguments: bytes, context: CallContext, error: NarthexError) -> None:
        """Told of a call that the agent does not make."""


class _Call:
    """One call from its approval to its result."""

    def __init__(
        self,
        calls: Calls,
        call: ToolCall,
        turns: asyncio.Semaphore,
        put: Callable[[ToolActivity | ToolCallEnded], None],
    ) -> None:
        self._calls = calls
        self._call = call
        self._turns = turns
        self._put = put

    async def run(self) -> None:
        result = error_result("the tool ended without a result")
        seconds = self._calls.options.tool_seconds
        try:
            with self._calls.inputs() as inputs:
                async with asyncio.timeout_at(self._calls.context.deadline):
                    await self._allowed(inputs)
                    async with self._turns:
                        result = await self._made(inputs, seconds)
        except NarthexError as error:
            result = error_result(error.message)
        except TimeoutError:
            result = error_result("the time for this answer was over before the tool was done")
        except Exception:
            log.exception("tool %s failed", self._call.name)
            result = error_result("the tool failed unexpectedly")
        finally:
            # Also when a tool cancels itself: nobody may wait for a result that never comes.
            self._put(ToolCallEnded(self._call, result))

    async def _allowed(self, inputs: Inputs | None) -> None:
        """Raises why the call is not made, which the catalog is told, as it hears of other calls itself."""
        try:
            tool, meant = self._calls.offer.meant(self._call)
            await approve(self._calls.options.approvals, tool, meant, inputs, self._tell)
        except NarthexError as error:
            self._calls.offer.refused(self._call, replace(self._calls.context, inputs=inputs), error)
            raise

    async def _made(self, inputs: Inputs | None, seconds: float) -> ToolResult:
        """The result, also of a call that ends with a wish for input and is made again."""
        context = replace(self._calls.context, inputs=inputs)
        for _ in range(MAX_ASKED):
            end = await self._once(context, seconds)
            if isinstance(end, ToolResult):
                return end
            if inputs is None:
                break
            answers = await answered(end, inputs, self._calls.options.approvals.seconds, self._tell)
            again = replace(context.mcp, input_responses=answers, request_state=end.request_state or None)
            context = replace(context, mcp=again)
        else:
            raise FailedPrecondition(f"the tool asked its user {MAX_ASKED} times and gave no result")
        return error_result("the tool asks for input from its user, who cannot be asked here")

    async def _once(self, context: CallContext, seconds: float) -> ToolResult | InputRequired:
        clock = asyncio.get_running_loop().time
        if context.inputs is None:  # then an upstream may know when nobody waits any more
            end = clock() + seconds
            context = replace(context, deadline=end if context.deadline is None else min(end, context.deadline))
        arguments = self._call.arguments.encode("utf-8", "replace")
        found: ToolResult | InputRequired = error_result("the tool ended without a result")
        waits = False
        try:
            stream = cast(AsyncGenerator[ToolEvent], self._calls.offer.call(self._call.name, arguments, context))
            async with asyncio.timeout(seconds) as limit, aclosing(stream) as events:
                async for event in events:
                    if waits:  # was answered, and the tool's own time begins again
                        waits = False
                        limit.reschedule(clock() + seconds)
                    match event:
                        case InputRequired() if event.request_state is None and context.inputs is not None:
                            waits = True
                            limit.reschedule(clock() + self._calls.options.approvals.seconds)
                            self._put(ToolActivity(self._call.id, event))
                        case ToolResult() | InputRequired():
                            found = event
                            break
                        case Progress() | Log():
                            self._put(ToolActivity(self._call.id, event))
        except TimeoutError:
            who = "its user did not answer the tool" if waits else f"the tool did not answer within {seconds:g} seconds"
            raise DeadlineExceeded(who) from None
        return found

    def _tell(self, wanted: InputRequired) -> None:
        self._put(ToolActivity(self._call.id, wanted))
