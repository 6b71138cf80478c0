"""A span for each request of an MCP client, by OpenTelemetry's conventions for MCP."""

import re
from contextlib import AbstractContextManager

from narthex.tracing.context import TRACE, TraceContext
from narthex.tracing.span import PassOn, Span, Tracer, Value

from narthex_bridge.mcp.calls import Origin
from narthex_bridge.protocol.jsonrpc import Request

MAX_NAME = 128
"""Characters of a name or URI in a span."""

PASS_ON = PassOn()

_USER = re.compile(r"(?<=://)[^/#]*@")

_TARGETS = {"tools/call": "gen_ai.tool.name", "prompts/get": "gen_ai.prompt.name"}


class RequestSpans:
    """Makes the spans; each goes under what the request's `_meta` names, else under that of its HTTP request."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._kept = not isinstance(tracer, PassOn)

    def of(self, origin: Origin) -> AbstractContextManager[Span]:
        """The span of a request's work, with TRACE not yet set to it."""
        request = origin.request
        meta = request.params.get("_meta")
        parent = (TraceContext.of(meta) if isinstance(meta, dict) else None) or TRACE.get()
        if not self._kept:
            return PASS_ON.span("", "server", parent, {})
        target = _text(request, "name") if request.method in _TARGETS else ""
        name = f"{request.method} {target}" if target else request.method
        return self._tracer.span(name, "server", parent, _attributes(origin, target))


def _attributes(origin: Origin, target: str) -> dict[str, Value]:
    request, session = origin.request, origin.session
    made: dict[str, Value] = {
        "mcp.method.name": request.method,
        "mcp.protocol.version": session.era.version,
        "jsonrpc.request.id": str(request.id)[:MAX_NAME],
        "narthex.request.id": origin.request_id,
    }
    if target:
        made[_TARGETS[request.method]] = target
    if request.method == "tools/call":
        made["gen_ai.operation.name"] = "execute_tool"
    if session.id:
        made["mcp.session.id"] = session.id
    if isinstance(uri := request.params.get("uri"), str) and uri:
        made["mcp.resource.uri"] = _shown(uri)
    return made


def _shown(uri: str) -> str:
    """A URI without the parts that can hold credentials."""
    return _USER.sub("", uri.partition("?")[0])[:MAX_NAME]


def _text(request: Request, name: str) -> str:
    value = request.params.get(name)
    return value[:MAX_NAME] if isinstance(value, str) else ""
