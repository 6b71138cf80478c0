"""What upstreams ask of callers, and what callers answer, between MCP's form and ours."""

from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from narthex_server.errors import FailedPrecondition, InvalidRequest, NarthexError
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.tool import InputRequest
from narthex_server.tools.upstream.convert import RESERVED, dump


def lacks(needed: Mapping[str, Any], upstream: str) -> FailedPrecondition:
    """The error for a caller that cannot answer what a call needs answered."""
    return FailedPrecondition(
        f"upstream {upstream!r} needs a client that offers {', '.join(needed) or 'more'}, which this caller does not",
        reason="MISSING_CLIENT_CAPABILITY",
        metadata={"required_capabilities": dump(needed).decode(), "upstream": upstream},
    )


def requests_of(raw: Mapping[str, Any]) -> tuple[InputRequest, ...]:
    """The requests of a result that is `input_required`, as they came."""
    requests: Mapping[str, Mapping[str, Any]] = raw.get("inputRequests") or {}
    return tuple(InputRequest(key, one["method"], dump(one.get("params") or {})) for key, one in requests.items())


def request_params(context: McpContext, modern: bool) -> dict[str, Any]:
    """What `context` adds to the params of a request; before 2026-07-28 that is `_meta` alone.

    The keys that the protocol reserves, and the progress token, are ours to set.
    """
    meta = {k: v for k, v in context.meta.items() if k != "progressToken" and not k.startswith(RESERVED)}
    params: dict[str, Any] = {}
    if modern:
        if context.input_responses:
            params["inputResponses"] = dict(context.input_responses)
        if context.request_state is not None:
            params["requestState"] = context.request_state
    return {**params, "_meta": meta} if meta else params


def is_lost(error: MCPError) -> bool:
    """Whether a JSON-RPC error is about the connection and not about the request."""
    return error.code == types.CONNECTION_CLOSED or error.message == "Session terminated"


def refusal(error: MCPError, context: McpContext, upstream: str) -> NarthexError | None:
    """The JSON-RPC errors that are about the caller or its answers, whatever was asked for; None for another one."""
    if error.code == types.MISSING_REQUIRED_CLIENT_CAPABILITY:
        match error.data:
            case {"requiredCapabilities": dict(needed)}:
                return lacks(needed, upstream)
        return lacks({}, upstream)
    if context.is_again and error.code != types.REQUEST_TIMEOUT and not is_lost(error):
        return InvalidRequest(
            error.message,
            reason="INVALID_REQUEST_STATE",
            metadata={"upstream": upstream, "jsonrpc_code": str(error.code)},
        )
    return None
