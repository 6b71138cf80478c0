"""The MCP routes' own words for a refusal: a JSON-RPC error without an id."""

from narthex_bridge.faces.refusal import Refusal
from narthex_bridge.http import HttpResponse
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.jsonrpc import RpcError

_CODES = {**dict.fromkeys((400, 403, 413), jsonrpc.INVALID_REQUEST), 500: jsonrpc.INTERNAL_ERROR}


class McpFace:
    """Statuses without a code of their own in JSON-RPC are their own code."""

    def refuse(self, refusal: Refusal) -> HttpResponse:
        failure = RpcError(_CODES.get(refusal.status, refusal.status), refusal.text)
        return HttpResponse(refusal.status, jsonrpc.error(None, failure), headers=refusal.headers)
