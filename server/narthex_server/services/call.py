"""What every service needs to know about the running call."""

import asyncio
from typing import Any

from grpc.aio import ServicerContext
from narthex.tracing.context import TRACE, TRACEPARENT, TraceContext, sent
from narthex.v1 import common_pb2 as common
from narthex.v1 import tool_pb2

from narthex_server.errors import Violation, invalid
from narthex_server.lot.terms import TERMS, Priority, Terms
from narthex_server.principal import CALLER, REQUEST_ID, SESSION
from narthex_server.services.admins import check_admin
from narthex_server.services.mcp_context import mcp_context
from narthex_server.services.priorities import ASKED
from narthex_server.tools.inputs import Inputs
from narthex_server.tools.tool import CallContext
from narthex_server.tools.traced import carrying
from narthex_server.tools.upstream.tokens import tokens_in

PLAIN = tool_pb2.McpContext()


def call_context(
    context: ServicerContext[Any, Any],
    mcp: tool_pb2.McpContext = PLAIN,
    inputs: Inputs | None = None,
    answers_approvals: bool = False,
) -> CallContext:
    """Whose call this is, when its time is over on the event loop's clock, and what an MCP client brings besides."""
    made = CallContext(
        CALLER.get(), REQUEST_ID.get(), deadline_of(context), mcp_context(mcp), inputs, SESSION.get(),
        answers_approvals, tokens_in(context.invocation_metadata() or ()),
    )  # fmt: skip
    return carrying(made, _trace(context, made))


def _trace(context: ServicerContext[Any, Any], call: CallContext) -> TraceContext | None:
    """The trace of a call: where its metadata names none, the one that MCP's `_meta` does."""
    said = TraceContext.of(call.mcp.meta) if TRACEPARENT in call.mcp.meta else None
    if said is not None and sent(context.invocation_metadata()) is None:
        TRACE.set(said)
    return TRACE.get()


def check_options(options: common.CallOptions, context: ServicerContext[Any, Any], *, timeless: bool = False) -> None:
    """Has the running call, and all that it starts, wait on the terms that it asks for; `timeless` beyond its deadline.

    Errors: InvalidRequest; PermissionDenied, as CRITICAL is for admins.
    """
    if (priority := ASKED.get(options.priority)) is None:
        raise invalid(Violation("options.priority", f"{options.priority} is not known to this server"))
    if priority is Priority.CRITICAL:
        check_admin(context, "ask for critical priority")
    TERMS.set(Terms(priority, None if timeless else deadline_of(context)))


def deadline_of(context: ServicerContext[Any, Any]) -> float | None:
    """When a call's time is over, on the event loop's clock; None is never."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining
