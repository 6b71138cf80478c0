"""What upstreams ask of callers, and what callers answer, between MCP's form and ours."""

from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from narthex_server.errors import FailedPrecondition, InvalidRequest, NarthexError
from narthex_server.tools.inputs import Answer, Reader
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.tool import InputRequest
from narthex_server.tools.upstream.convert import RESERVED, dump
from narthex_server.tools.upstream.source import Sampling

SAMPLING = "sampling/createMessage"
ELICITATION = "elicitation/create"
ROOTS = "roots/list"

METADATA_BYTES = 200
"""What an error's metadata holds of one value; a longer one is cut, and JSON that is cut says nothing."""


def offered(capabilities: Mapping[str, Any], sampling: Sampling) -> Mapping[str, Any]:
    """The client capabilities that an upstream may count on in a request whose caller has `capabilities`."""
    others = {name: value for name, value in capabilities.items() if name != "sampling"}
    match sampling:
        case "refuse":
            return others
        case "model":
            return {**others, "sampling": {"tools": {}}}
        case "client":
            return capabilities


def lacking(method: str, params: Mapping[str, Any], capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """The client capabilities that a request needs, if `capabilities` are without one of them; else nothing."""
    match method:
        case "sampling/createMessage":
            tools = bool({"tools", "toolChoice"} & params.keys())
            needed: dict[str, Any] = {"sampling": {"tools": {}} if tools else {}}
            has = isinstance(own := capabilities.get("sampling"), Mapping) and (not tools or "tools" in own)
        case "elicitation/create" if params.get("mode") == "url":
            needed = {"elicitation": {"url": {}}}
            has = isinstance(own := capabilities.get("elicitation"), Mapping) and "url" in own
        case "elicitation/create":
            needed = {"elicitation": {"form": {}}}
            # a client of before there were modes declares an empty object
            has = isinstance(own := capabilities.get("elicitation"), Mapping) and ("form" in own or not own)
        case _:
            needed = {"roots": {}}
            has = isinstance(capabilities.get("roots"), Mapping)
    return {} if has else needed


def lacks(needed: Mapping[str, Any], upstream: str) -> FailedPrecondition:
    """The error for a caller that cannot answer what a call needs answered."""
    short = dump(needed)
    if len(short) > METADATA_BYTES:
        short = dump({name: {} for name in ("sampling", "elicitation", "roots") if name in needed})
    return FailedPrecondition(
        f"upstream {upstream!r} needs a client that offers {', '.join(needed) or 'more'}, which this caller does not",
        reason="MISSING_CLIENT_CAPABILITY",
        metadata={"required_capabilities": short.decode(), "upstream": upstream},
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
        if context.log_level not in (None, "off"):
            meta[types.LOG_LEVEL_META_KEY] = context.log_level
        if context.input_responses:
            params["inputResponses"] = dict(context.input_responses)
        if context.request_state is not None:
            params["requestState"] = context.request_state
    return {**params, "_meta": meta} if meta else params


def is_lost(error: MCPError) -> bool:
    """Whether a JSON-RPC error is about the connection and not about the request."""
    return error.code == types.CONNECTION_CLOSED or error.message == "Session terminated"


def urls_of(error: MCPError) -> tuple[InputRequest, ...]:
    """The URLs that a user has to visit first, where the error is about them: 2025-11-25's way to require input."""
    if error.code != types.URL_ELICITATION_REQUIRED:
        return ()
    match error.data:
        case {"elicitations": [*asked]}:
            found = [{"mode": "url", **one} for one in asked if isinstance(one, dict)]
            return tuple(InputRequest(str(n), ELICITATION, dump(one)) for n, one in enumerate(found, 1))
    return ()


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


def reader(*results: type[types.Result]) -> Reader:
    """Reads an answer as the first of `results` that it fits, or as the error that it is."""

    def read(answer: Answer) -> types.Result | types.ErrorData:
        if answer.error is not None:
            return types.ErrorData.model_validate(answer.error, by_name=False)
        for result in results[:-1]:
            try:
                return result.model_validate(answer.result, by_name=False)
            except ValueError:
                continue
        return results[-1].model_validate(answer.result, by_name=False)

    return read
