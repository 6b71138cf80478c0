"""One client on a pair of pipes: every line is a message, of a session or of a version without them."""

import secrets
import uuid

from narthex_bridge.caller import LOCAL
from narthex_bridge.mcp.dispatcher import Dispatcher
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol import envelope, jsonrpc, methods
from narthex_bridge.protocol.jsonrpc import Answer, Invalid, Message, Notification, Request, RpcError
from narthex_bridge.protocol.notifications import list_changed
from narthex_bridge.sessions.session import Session


class StdioEndpoint:
    """Reads lines and writes messages; both eras may be mixed, as the messages themselves say which is which."""

    converses = True

    def __init__(self, dispatcher: Dispatcher, outbox: Outbox) -> None:
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._session = Session(LOCAL, secrets.token_urlsafe(24), stream=outbox)

    def receive(self, line: bytes) -> None:
        """Takes a line; whatever it asks for is answered later."""
        if not line.strip():
            return
        try:
            parsed = jsonrpc.parse(line)
        except RpcError as error:
            self._outbox.offer(jsonrpc.error(None, error))
            return
        if isinstance(parsed, list) and not self._session.era.batching:
            self.refuse("This version of the protocol has no batches.")
            return
        for message in parsed if isinstance(parsed, list) else [parsed]:
            self._take(message)

    def refuse(self, text: str) -> None:
        """Tells the client of a message that cannot be one."""
        self._outbox.offer(jsonrpc.error(None, RpcError(jsonrpc.INVALID_REQUEST, text)))

    @property
    def session(self) -> Session:
        return self._session

    def list_changed(self, tenant: str, kind: str) -> None:
        """Tells the client of a session that a list has changed."""
        self._session.notify(list_changed(kind))

    def close(self) -> None:
        """The client is gone: what is in work for it ends, and what it was told is the last."""
        self._session.stream = None
        self._session.close()
        self._outbox.close()

    @property
    def lagging(self) -> bool:
        return self._outbox.lagging

    async def notify(self, message: bytes) -> None:
        await self._outbox.put(message)

    def respond(self, message: bytes, code: int) -> None:
        self._outbox.offer(message)

    def called(self, seconds: float) -> None:
        """Nothing: there is no HTTP request whose time it would be part of."""

    def _take(self, message: Message) -> None:
        match message:
            case Request():
                try:
                    session = self._session_of(message)
                except RpcError as error:
                    self._outbox.offer(jsonrpc.error(message.id, error))
                    return
                self._dispatcher.start(message, session, uuid.uuid4().hex, self)
            case Notification():
                if (cancelled := methods.cancelled_id(message)) is not None:
                    self._session.cancel(cancelled)
            case Answer():
                self._session.asks.answered(message)
            case Invalid(error, id):
                self._outbox.offer(jsonrpc.error(id, error))

    def _session_of(self, request: Request) -> Session:
        """The session, or one for this request alone that shares its calls, so that they can be cancelled."""
        if not envelope.stateless({}, [request]):
            return self._session
        brought = envelope.read(request, None)
        return Session(
            LOCAL,
            era=brought.era,
            capabilities=brought.capabilities,
            log_level=brought.log_level,
            initialized=True,
            calls=self._session.calls,
        )
