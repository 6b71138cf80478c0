"""All tool calls of one round, at the same time."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol, cast

from narthex_server.agent.events import ToolActivity, ToolCallResult
from narthex_server.agent.results import error_result
from narthex_server.errors import NarthexError, NotFound
from narthex_server.principal import Principal
from narthex_server.text.messages import ToolCall
from narthex_server.tools.tool import CallContext, InputRequired, Log, Progress, Tool, ToolEvent, ToolResult

log = logging.getLogger(__name__)


class ToolBox(Protocol):
    """The part of the catalog that the agent uses."""

    def list(self, principal: Principal) -> tuple[Tool, ...]: ...

    def call(self, name: str, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]: ...

    def refused(self, name: str, arguments: bytes, context: CallContext, error: NarthexError) -> None:
        """Told of a call that the agent does not make."""


async def run_calls(
    tools: ToolBox, calls: Sequence[ToolCall], offered: frozenset[str], context: CallContext, seconds: float
) -> AsyncGenerator[ToolActivity | ToolCallResult]:
    """Runs every call, at most `seconds` each, and yields what they report as it comes, each call's result last.

    A call that fails becomes an error result; closing the iterator cancels all that still run.
    """
    events: asyncio.Queue[ToolActivity | ToolCallResult] = asyncio.Queue()
    tasks = [asyncio.create_task(_run(tools, call, offered, context, seconds, events)) for call in calls]
    try:
        running = len(tasks)
        while running:
            event = await events.get()
            running -= isinstance(event, ToolCallResult)
            yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(
    tools: ToolBox,
    call: ToolCall,
    offered: frozenset[str],
    context: CallContext,
    seconds: float,
    events: "asyncio.Queue[ToolActivity | ToolCallResult]",
) -> None:
    result = error_result("the tool ended without a result")
    loop, arguments = asyncio.get_running_loop(), call.arguments.encode("utf-8", "replace")
    deadline = min(loop.time() + seconds, float("inf") if context.deadline is None else context.deadline)
    try:
        if call.name not in offered:
            known = ", ".join(sorted(offered))
            error = NotFound(f"there is no tool {call.name!r}; there are: {known}", reason="TOOL_NOT_FOUND")
            tools.refused(call.name, arguments, context, error)
            raise error
        stream = tools.call(call.name, arguments, replace(context, deadline=deadline))
        async with asyncio.timeout_at(deadline), aclosing(cast(AsyncGenerator[ToolEvent], stream)):
            async for event in stream:
                if isinstance(event, ToolResult):
                    result = event
                elif isinstance(event, InputRequired):
                    result = error_result("the tool asks for input from its user, who cannot be asked here")
                elif isinstance(event, Progress | Log):
                    events.put_nowait(ToolActivity(call.id, event))
    except NarthexError as error:
        result = error_result(error.message)
    except TimeoutError:
        result = error_result(f"the tool did not answer within {seconds:g} seconds")
    except Exception:
        log.exception("tool %s failed", call.name)
        result = error_result("the tool failed unexpectedly")
    finally:
        # Also when a tool cancels itself: nobody may wait for a result that never comes.
        events.put_nowait(ToolCallResult(call.id, call.name, result))
