"""/mcp: Streamable HTTP, of every version that starts with a handshake; the others are handed over."""

from collections.abc import Awaitable, Sequence

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.endpoints.stateless import StatelessEndpoint
from narthex_bridge.http.messages import EVENTS, JSON, HttpRequest, HttpResponse, accepts, event_stream
from narthex_bridge.mcp.dispatcher import Dispatcher
from narthex_bridge.mcp.exchange import Exchange
from narthex_bridge.mcp.face import refusal
from narthex_bridge.mcp.framing import BareFraming, Framing, MessageFraming, SilentFraming
from narthex_bridge.metrics import Metrics
from narthex_bridge.protocol import envelope, jsonrpc, methods
from narthex_bridge.protocol.eras import ERAS, LATEST_SESSION
from narthex_bridge.protocol.headers import VERSION as VERSION_HEADER
from narthex_bridge.protocol.jsonrpc import Invalid, Message, Notification, Request, RpcError
from narthex_bridge.sessions.session import Session
from narthex_bridge.sessions.store import STREAM, SessionStore
from narthex_bridge.stores.store import StoreUnavailable
from narthex_bridge.streams.place import Place
from narthex_bridge.streams.reading import Reading
from narthex_bridge.streams.streams import Streams

SESSION_HEADER = "mcp-session-id"
EVENT_HEADER = "last-event-id"


class McpEndpoint:
    """POST carries messages, GET opens the stream of unasked ones or resumes any, DELETE ends the session."""

    def __init__(
        self,
        config: BridgeConfig,
        sessions: SessionStore,
        streams: Streams,
        dispatcher: Dispatcher,
        metrics: Metrics,
        stateless: StatelessEndpoint,
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._streams = streams
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._stateless = stateless

    async def post(self, http: HttpRequest) -> HttpResponse:
        return await _reached(self._post(http))

    async def get(self, http: HttpRequest) -> HttpResponse:
        return await _reached(self._get(http))

    async def delete(self, http: HttpRequest) -> HttpResponse:
        return await _reached(self._delete(http))

    async def _post(self, http: HttpRequest) -> HttpResponse:
        if http.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            return refusal(415, f"Content-Type must be {JSON}.")
        accept = http.headers.get("accept")
        if not accepts(accept, JSON) and not accepts(accept, EVENTS):
            return refusal(406, f"Accept must allow {JSON} and {EVENTS}.")
        try:
            parsed = jsonrpc.parse(http.body)
        except RpcError as error:
            return HttpResponse(400, jsonrpc.error(None, error))
        batched = isinstance(parsed, list)
        messages: list[Message] = parsed if isinstance(parsed, list) else [parsed]
        if envelope.stateless(http.headers, messages):
            return await self._stateless.post(http, messages)
        if (wrong := self._wrong_version(http, messages)) is not None:
            return wrong
        session = await self._session(http, messages)
        if isinstance(session, HttpResponse):
            return session
        if batched and not session.era.batching:
            return refusal(400, f"Version {session.era.version} of the protocol has no batches.")
        return await self._answer(http, session, messages, batched)

    async def _get(self, http: HttpRequest) -> HttpResponse:
        if "text/html" in http.headers.get("accept", ""):
            return refusal(406, "This URL is for MCP clients, not for browsers; / says what else is here.")
        if not accepts(http.headers.get("accept"), EVENTS):
            return refusal(406, f"Accept must allow {EVENTS}.")
        session = self._wrong_version(http, ()) or await self._session(http, ())
        if isinstance(session, HttpResponse):
            return session
        seen = http.headers.get(EVENT_HEADER) if session.era.resumable else None
        if seen is None:
            return await self._listen(session, None)
        place = Place.read(session.id, seen)
        if place is not None and place.stream == STREAM:
            return await self._listen(session, place)
        reading = await self._streams.resume(session.id, session.era, place) if place else None
        if reading is None:
            return refusal(400, "Last-Event-ID names no event of this session that is still kept.")
        return event_stream(reading, reading.tally)

    async def _delete(self, http: HttpRequest) -> HttpResponse:
        session = self._wrong_version(http, ()) or await self._session(http, ())
        if isinstance(session, HttpResponse):
            return session
        await self._sessions.remove(session)
        return HttpResponse(204)

    def _wrong_version(self, http: HttpRequest, messages: Sequence[Message]) -> HttpResponse | None:
        named = http.headers.get(VERSION_HEADER)
        if named is None or named in ERAS:
            return None
        asking = messages[0].id if len(messages) == 1 and isinstance(messages[0], Request) else None
        return HttpResponse(400, jsonrpc.error(asking, envelope.unsupported_version(named)))

    async def _session(self, http: HttpRequest, messages: Sequence[Message]) -> Session | HttpResponse:
        if _initializes(messages):
            if len(messages) > 1:
                return refusal(400, "initialize must not be part of a batch.")
            if self._sessions.full:
                return refusal(503, "There are as many sessions as there may be.", (("retry-after", "5"),))
            return Session(http.caller)
        session_id = http.headers.get(SESSION_HEADER)
        if session_id is None:
            if not messages or not all(map(_alone, messages)):
                return refusal(400, "Mcp-Session-Id is missing: start with initialize.")
            # Some clients never send the id that they were given: their requests are each a session of its own.
            era = ERAS.get(http.headers.get(VERSION_HEADER, ""), LATEST_SESSION)
            return Session(http.caller, era=era, log_level=None, initialized=True)
        session = await self._sessions.find(session_id, http.caller)
        if session is None:
            return refusal(404, "There is no such session: start again with initialize.")
        return session

    async def _answer(
        self, http: HttpRequest, session: Session, messages: Sequence[Message], batched: bool
    ) -> HttpResponse:
        requests = [message for message in messages if isinstance(message, Request)]
        invalid = [message for message in messages if isinstance(message, Invalid)]
        if len(requests) < len(messages) and not session.deliver(messages):
            await self._sessions.hand_on(session, http.body)
        if not requests and not invalid:
            return HttpResponse(202)
        if not batched and invalid:
            return HttpResponse(400, jsonrpc.error(invalid[0].id, invalid[0].error))
        accept = http.headers.get("accept")
        streams = accepts(accept, EVENTS)
        resumable = streams and session.era.resumable and bool(session.id)
        framing: Framing = BareFraming() if resumable else MessageFraming() if streams else SilentFraming()
        exchange = Exchange(framing, len(requests) + len(invalid), self._config.keepalive_s)
        for message in invalid:
            exchange.respond(jsonrpc.error(message.id, message.error), message.error.code)
        exchange.start(self._dispatcher, requests, session, http.request_id)
        patience = self._config.stream_after_s if streams else None
        answers = await exchange.answers(patience) if accepts(accept, JSON) else None
        try:
            headers = await self._opened(session, _initializes(messages))
            if answers is not None:
                body = b"[%b]" % b",".join(answers) if batched else answers[0]
                return HttpResponse(200, body, headers=headers, tally=exchange.tally)
            if not resumable:
                return event_stream(exchange, exchange.tally, headers)
            asked = [request.id for request in requests]
            reading = await self._streams.begin(session.id, session.era, exchange, asked, http.request_id)
        except BaseException:
            exchange.cancel()
            raise
        return event_stream(reading, reading.tally, headers)

    async def _opened(self, session: Session, opening: bool) -> tuple[tuple[str, str], ...]:
        """Keeps what the requests changed of the session; one whose initialize went well is named to the client."""
        if session.id:
            if session.kept is not None:
                await self._sessions.keep(session)
            return ()
        if not session.initialized or not opening:
            return ()
        await self._sessions.open(session)
        return ((SESSION_HEADER, session.id),)

    async def _listen(self, session: Session, place: Place | None) -> HttpResponse:
        """The session's own stream; a client that comes back to it takes it over from its old connection."""
        stream = await self._sessions.listen(session, self._metrics, over=place is not None)
        if stream is None:
            return refusal(409, "This session has a stream already.")
        if place is not None:
            stream.last = max(stream.last, place.number)  # its number was used even if the store has lost it
            self._metrics.resumed_streams.inc()
        number = place.number if place else stream.last
        reading = Reading(stream, session.id, STREAM, number, self._streams.manners[session.era], self._metrics)
        stream.attach(reading)
        return event_stream(reading, reading.tally)


async def _reached(answer: Awaitable[HttpResponse]) -> HttpResponse:
    try:
        return await answer
    except StoreUnavailable:
        return refusal(503, "The store of sessions cannot be reached.", (("retry-after", "1"),))


def _alone(message: Message) -> bool:
    """Whether a message means the same without a session."""
    match message:
        case Request(method=method):
            return method in methods.SESSIONLESS
        case Notification():
            return True
        case _:
            return False


def _initializes(messages: Sequence[Message]) -> bool:
    return any(isinstance(message, Request) and message.method == "initialize" for message in messages)
