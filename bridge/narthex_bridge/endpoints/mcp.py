"""/mcp: Streamable HTTP, of every version that starts with a handshake; the others are handed over."""

from collections.abc import AsyncGenerator, Sequence

from narthex_bridge.config import BridgeConfig
from narthex_bridge.dispatcher import Dispatcher
from narthex_bridge.endpoints.stateless import StatelessEndpoint
from narthex_bridge.exchange import Exchange, MessageFraming, SilentFraming
from narthex_bridge.faces.mcp import refusal
from narthex_bridge.http import EVENTS, JSON, HttpRequest, HttpResponse, Tally, accepts, event_stream
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol import envelope, jsonrpc, methods, sse
from narthex_bridge.protocol.eras import ERAS
from narthex_bridge.protocol.headers import VERSION as VERSION_HEADER
from narthex_bridge.protocol.jsonrpc import Answer, Invalid, Message, Notification, Request, RpcError
from narthex_bridge.sessions import Session, SessionStore

SESSION_HEADER = "mcp-session-id"


class McpEndpoint:
    """POST carries messages, GET opens the stream of unasked messages, DELETE ends the session."""

    def __init__(
        self, config: BridgeConfig, sessions: SessionStore, dispatcher: Dispatcher, stateless: StatelessEndpoint
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._stateless = stateless

    async def post(self, http: HttpRequest) -> HttpResponse:
        if not http.headers.get("content-type", "").lower().startswith(JSON):
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
        session = self._session(http, messages)
        if isinstance(session, HttpResponse):
            return session
        if batched and not session.era.batching:
            return refusal(400, f"Version {session.era.version} of the protocol has no batches.")
        return await self._answer(http, session, messages, batched)

    async def get(self, http: HttpRequest) -> HttpResponse:
        if not accepts(http.headers.get("accept"), EVENTS):
            return refusal(406, f"Accept must allow {EVENTS}.")
        session = self._wrong_version(http, ()) or self._session(http, ())
        if isinstance(session, HttpResponse):
            return session
        if session.stream is not None:
            return refusal(409, "This session has a stream already.")
        tally = Tally()
        return event_stream(self._listen(session, tally), tally)

    async def delete(self, http: HttpRequest) -> HttpResponse:
        session = self._wrong_version(http, ()) or self._session(http, ())
        if isinstance(session, HttpResponse):
            return session
        self._sessions.remove(session)
        return HttpResponse(204)

    def _wrong_version(self, http: HttpRequest, messages: Sequence[Message]) -> HttpResponse | None:
        named = http.headers.get(VERSION_HEADER)
        if named is None or named in ERAS:
            return None
        asking = messages[0].id if len(messages) == 1 and isinstance(messages[0], Request) else None
        return HttpResponse(400, jsonrpc.error(asking, envelope.unsupported_version(named)))

    def _session(self, http: HttpRequest, messages: Sequence[Message]) -> Session | HttpResponse:
        if _initializes(messages):
            if len(messages) > 1:
                return refusal(400, "initialize must not be part of a batch.")
            if self._sessions.full:
                return refusal(503, "There are as many sessions as there may be.", (("retry-after", "5"),))
            return Session(http.caller)
        session_id = http.headers.get(SESSION_HEADER)
        if session_id is None:
            return refusal(400, "Mcp-Session-Id is missing: start with initialize.")
        session = self._sessions.get(session_id, http.caller)
        if session is None:
            return refusal(404, "There is no such session: start again with initialize.")
        return session

    async def _answer(
        self, http: HttpRequest, session: Session, messages: Sequence[Message], batched: bool
    ) -> HttpResponse:
        requests = [message for message in messages if isinstance(message, Request)]
        invalid = [message for message in messages if isinstance(message, Invalid)]
        for message in messages:
            if isinstance(message, Answer):
                session.asks.answered(message)
            elif isinstance(message, Notification) and (cancelled := methods.cancelled_id(message)) is not None:
                session.cancel(cancelled)
        if not requests and not invalid:
            return HttpResponse(202)
        if not batched and invalid:
            return HttpResponse(400, jsonrpc.error(invalid[0].id, invalid[0].error))
        accept = http.headers.get("accept")
        streams = accepts(accept, EVENTS)
        exchange = Exchange(
            MessageFraming() if streams else SilentFraming(), len(requests) + len(invalid), self._config.keepalive_s
        )
        for message in invalid:
            exchange.respond(jsonrpc.error(message.id, message.error), message.error.code)
        exchange.start(self._dispatcher, requests, session, http.request_id)
        patience = self._config.stream_after_s if streams else None
        answers = await exchange.answers(patience) if accepts(accept, JSON) else None
        headers = self._opened(session)
        if answers is not None:
            body = b"[%b]" % b",".join(answers) if batched else answers[0]
            return HttpResponse(200, body, headers=headers, tally=exchange.tally)
        return event_stream(exchange, exchange.tally, headers)

    def _opened(self, session: Session) -> tuple[tuple[str, str], ...]:
        """Keeps the session of an initialize that went well, and names it to the client."""
        if not session.initialized or session.id:
            return ()
        self._sessions.add(session)
        return ((SESSION_HEADER, session.id),)

    async def _listen(self, session: Session, tally: Tally) -> AsyncGenerator[bytes, None]:
        outbox = session.stream = Outbox()
        try:
            for message in session.take_pending():
                outbox.offer(message)
            while (messages := await outbox.take(self._config.keepalive_s)) is not None:
                tally.events += len(messages)
                yield b"".join(map(sse.message, messages)) or sse.KEEPALIVE
        finally:
            session.stream = None


def _initializes(messages: Sequence[Message]) -> bool:
    return any(isinstance(message, Request) and message.method == "initialize" for message in messages)
