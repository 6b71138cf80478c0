"""/sse and /messages: the transport of 2024-11-05, where all answers come on one stream."""

from collections.abc import AsyncGenerator

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.http.messages import EVENTS, HttpRequest, HttpResponse, Tally, accepts, event_stream
from narthex_bridge.mcp.dispatcher import Dispatcher
from narthex_bridge.mcp.face import refusal
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol import jsonrpc, sse
from narthex_bridge.protocol.jsonrpc import Answer, Invalid, Notification, Request, RpcError
from narthex_bridge.sessions.session import Session
from narthex_bridge.sessions.store import SessionStore


class LegacyEndpoint:
    """The session lives as long as its stream."""

    def __init__(self, config: BridgeConfig, sessions: SessionStore, dispatcher: Dispatcher) -> None:
        self._config = config
        self._sessions = sessions
        self._dispatcher = dispatcher

    async def open(self, http: HttpRequest) -> HttpResponse:
        if not accepts(http.headers.get("accept"), EVENTS):
            return refusal(406, f"Accept must allow {EVENTS}.")
        if self._sessions.full:
            return refusal(503, "There are as many sessions as there may be.", (("retry-after", "5"),))
        tally = Tally()
        return event_stream(self._listen(Session(http.caller), tally), tally)

    async def post(self, http: HttpRequest) -> HttpResponse:
        session = self._sessions.held(http.query.get("session_id", ""), http.caller)
        if session is None or session.stream is None:
            return refusal(404, "There is no such session: open /sse first.")
        try:
            message = jsonrpc.parse(http.body)
        except RpcError as error:
            return HttpResponse(400, jsonrpc.error(None, error))
        stream = StreamResponder(session.stream)
        match message:
            case Request():
                self._dispatcher.start(message, session, http.request_id, stream)
            case Notification() | Answer():
                session.deliver([message])
            case Invalid():
                return HttpResponse(400, jsonrpc.error(message.id, message.error))
            case _:
                return refusal(400, "This transport has no batches.")
        return HttpResponse(202, b"Accepted", "text/plain")

    async def _listen(self, session: Session, tally: Tally) -> AsyncGenerator[bytes, None]:
        outbox = session.stream = Outbox()
        self._sessions.hold(session)
        try:
            yield sse.event(b"endpoint", f"/messages?session_id={session.id}".encode())
            while (messages := await outbox.take(self._config.keepalive_s)) is not None:
                tally.events += len(messages)
                yield b"".join(map(sse.message, messages)) or sse.KEEPALIVE
        finally:
            session.stream = None
            self._sessions.release(session)
            outbox.close()


class StreamResponder:
    """Answers on the session's stream; a client that does not read loses it."""

    converses = True

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    @property
    def lagging(self) -> bool:
        return self._outbox.lagging

    async def notify(self, message: bytes) -> None:
        await self._outbox.put(message)

    def called(self, seconds: float) -> None:
        """Nothing: the time belongs to no answer of this transport."""

    def respond(self, message: bytes, code: int) -> None:
        if not self._outbox.offer(message):
            self._outbox.close()
