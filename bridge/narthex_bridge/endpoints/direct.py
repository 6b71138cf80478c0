"""/mcp/stream and /mcp/list: one call without a session, for scripts and curl."""

from dataclasses import replace

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.http.messages import HttpRequest, HttpResponse, event_stream
from narthex_bridge.mcp.catalog import Catalog
from narthex_bridge.mcp.dispatcher import Dispatcher
from narthex_bridge.mcp.exchange import Exchange
from narthex_bridge.mcp.face import refusal
from narthex_bridge.mcp.framing import DirectFraming
from narthex_bridge.protocol import jsonrpc, params
from narthex_bridge.protocol.eras import LATEST_SESSION
from narthex_bridge.protocol.failures import BackendError, rpc_error
from narthex_bridge.protocol.jsonrpc import Invalid, Request, RpcError
from narthex_bridge.sessions.session import Session


class DirectEndpoint:
    """One JSON-RPC request in; `message` events, then `done` or `error` out."""

    def __init__(self, config: BridgeConfig, catalog: Catalog, dispatcher: Dispatcher) -> None:
        self._config = config
        self._catalog = catalog
        self._dispatcher = dispatcher

    async def stream(self, http: HttpRequest) -> HttpResponse:
        try:
            message = jsonrpc.parse(http.body)
        except RpcError as error:
            return HttpResponse(400, jsonrpc.error(None, error))
        if isinstance(message, Invalid):
            return HttpResponse(400, jsonrpc.error(message.id, message.error))
        if not isinstance(message, Request):
            return refusal(400, "The body must be one JSON-RPC request with an id.")
        exchange = Exchange(DirectFraming(), 1, self._config.keepalive_s)
        exchange.start(self._dispatcher, [_with_token(message)], Session(http.caller, log_level=None), http.request_id)
        return event_stream(exchange, exchange.tally)

    async def list(self, http: HttpRequest) -> HttpResponse:
        try:
            return HttpResponse(200, await self._catalog.all_tools(http.caller, http.request_id, LATEST_SESSION))
        except BackendError as failure:
            status = 503 if failure.status == "UNAVAILABLE" else 502
            return HttpResponse(status, jsonrpc.error(None, rpc_error(failure, http.request_id)))


def _with_token(request: Request) -> Request:
    """The request with a progress token, its id where it brings none: on this route progress is always wanted."""
    if params.progress_token(request) is not None:
        return request
    meta = request.params.get("_meta")
    with_token = {**(meta if isinstance(meta, dict) else {}), "progressToken": request.id}
    return replace(request, params={**request.params, "_meta": with_token})
