"""/mcp for the versions without sessions: one POST is one request, and brings all that there is to know."""

from collections.abc import Sequence

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.http.messages import EVENTS, HttpRequest, HttpResponse, accepts, event_stream
from narthex_bridge.mcp.catalog import Catalog
from narthex_bridge.mcp.dispatcher import Dispatcher
from narthex_bridge.mcp.exchange import Exchange
from narthex_bridge.mcp.face import refusal
from narthex_bridge.mcp.framing import MessageFraming, SilentFraming
from narthex_bridge.protocol import envelope, headers, jsonrpc
from narthex_bridge.protocol.failures import BackendError, rpc_error
from narthex_bridge.protocol.jsonrpc import Message, Notification, Request, RpcError
from narthex_bridge.sessions.session import Session


class StatelessEndpoint:
    """The stream of a request ends with it, and ending it ends the request."""

    def __init__(self, config: BridgeConfig, catalog: Catalog, dispatcher: Dispatcher) -> None:
        self._config = config
        self._catalog = catalog
        self._dispatcher = dispatcher

    async def post(self, http: HttpRequest, messages: Sequence[Message]) -> HttpResponse:
        match messages:
            case [Request() as request]:
                return await self._answer(http, request)
            case [Notification()]:
                return HttpResponse(202)  # none of these versions' notifications means anything over HTTP
            case _:
                return refusal(400, "In this version a body is one request or notification.")

    async def _answer(self, http: HttpRequest, request: Request) -> HttpResponse:
        try:
            session = await self._session(http, request)
        except RpcError as error:
            return _failed(request, error)
        except BackendError as failure:
            return _failed(request, rpc_error(failure, http.request_id))
        streams = accepts(http.headers.get("accept"), EVENTS)
        exchange = Exchange(MessageFraming() if streams else SilentFraming(), 1, self._config.keepalive_s)
        exchange.start(self._dispatcher, [request], session, http.request_id)
        answers = await exchange.answers(self._config.stream_after_s if streams else None)
        if answers is None:
            return event_stream(exchange, exchange.tally)
        return HttpResponse(envelope.STATUSES.get(exchange.code, 200), answers[0], tally=exchange.tally)

    async def _session(self, http: HttpRequest, request: Request) -> Session:
        """A session of one request. Raises RpcError and BackendError."""
        brought = envelope.read(request, http.headers)
        if request.method == "tools/call":
            arguments = request.params.get("arguments")
            wanted = await self._catalog.mirrored(http.caller, http.request_id, str(request.params.get("name")))
            headers.check_parameters(http.headers, wanted, arguments if isinstance(arguments, dict) else {})
        return Session(
            http.caller,
            era=brought.era,
            capabilities=brought.capabilities,
            log_level=brought.log_level,
            initialized=True,
        )


def _failed(request: Request, error: RpcError) -> HttpResponse:
    return HttpResponse(envelope.STATUSES.get(error.code, 200), jsonrpc.error(request.id, error))
