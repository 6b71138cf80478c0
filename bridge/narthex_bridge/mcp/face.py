"""The MCP routes' own words for a refusal: a JSON-RPC error without an id."""

from narthex_bridge.http.messages import HttpResponse
from narthex_bridge.http.refusal import Headers, Refusal
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.jsonrpc import RpcError

_CODES = {**dict.fromkeys((400, 404, 405, 406, 409, 413, 415), jsonrpc.INVALID_REQUEST), 500: jsonrpc.INTERNAL_ERROR}
_RETRYABLE = frozenset({408, 429, 503})


class McpFace:
    """Statuses without a code of their own in JSON-RPC are their own code."""

    def refuse(self, refusal: Refusal) -> HttpResponse:
        data: dict[str, object] | None = None
        if refusal.reason:
            data = {"reason": refusal.reason, "retryable": refusal.status in _RETRYABLE}
            if (wait := dict(refusal.headers).get("retry-after")) is not None:
                data["retryAfter"] = int(wait)
        failure = RpcError(_CODES.get(refusal.status, refusal.status), refusal.text, data)
        return HttpResponse(refusal.status, jsonrpc.error(None, failure), headers=refusal.headers)


def refusal(status: int, text: str, headers: Headers = ()) -> HttpResponse:
    """The answer of an MCP route that takes a request, but not this one."""
    return McpFace().refuse(Refusal(status, text, headers))
