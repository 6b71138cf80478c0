"""A span around every call of a tool, which what runs the tool goes under."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from narthex.tracing.context import TRACE, TraceContext
from narthex.tracing.span import Kind, PassOn, Tracer, Value

from narthex_server.tools.step import Invocation, Run
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

Shown = Callable[[Mapping[str, Any]], str]
"""Writes the arguments of a call, without what must not be kept."""

TOOL_ERROR = "tool_error"
"""What OpenTelemetry calls a result that says it is an error."""


def carrying(context: CallContext, trace: TraceContext | None) -> CallContext:
    """A call whose upstream is told the trace, in MCP's `_meta`; what its caller says there counts without one."""
    if trace is None:
        return context
    return replace(context, mcp=replace(context.mcp, meta={**context.mcp.meta, **trace.carried()}))


class PassedOn:
    """Tells upstreams which trace a call belongs to; the step of those who do not trace."""

    def around(self, call: Invocation, run: Run) -> AsyncGenerator[ToolEvent]:
        if (trace := TRACE.get()) is None:
            return run(call)
        return run(replace(call, context=carrying(call.context, trace)))


class Traced:
    """Makes the span `execute_tool NAME`, by OpenTelemetry's conventions for GenAI and MCP."""

    def __init__(self, tracer: Tracer, shown: Shown | None = None) -> None:
        """With `shown` spans hold the arguments of their calls, as it writes them."""
        self._tracer = tracer
        self._shown = shown

    async def around(self, call: Invocation, run: Run) -> AsyncGenerator[ToolEvent]:
        tool = call.tool
        attributes: dict[str, Value] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool.name,
            "gen_ai.tool.type": "extension" if tool.server else "function",
        }
        if call.context.inputs is not None:
            attributes["gen_ai.tool.call.id"] = call.context.inputs.call_id
        if tool.server:
            attributes["mcp.method.name"] = "tools/call"
            attributes["narthex.upstream"] = tool.server
        if self._shown is not None:
            attributes["gen_ai.tool.call.arguments"] = self._shown(call.arguments)
        name, kind = f"execute_tool {tool.name}", _kind(tool)
        with self._tracer.span(name, kind, TRACE.get(), attributes) as span:
            below = replace(call, context=carrying(call.context, span.context))
            try:
                async with aclosing(run(below)) as events:
                    async for event in events:
                        if isinstance(event, ToolResult) and event.is_error:
                            span.fail(TOOL_ERROR)
                        yield event
            finally:
                if call.trail.rule:
                    span.note("narthex.policy.rule", call.trail.rule)
                if call.trail.cached:
                    span.note("narthex.cached", True)


def _kind(tool: Tool) -> Kind:
    return "client" if tool.server else "internal"


def tracing(tracer: Tracer, shown: Shown | None = None) -> Traced | PassedOn:
    """The step for a tracer; `shown` as Traced has it."""
    return PassedOn() if isinstance(tracer, PassOn) else Traced(tracer, shown)
