"""A session: what one client has agreed on, and its calls in work."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from narthex_bridge.caller import Caller
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol import jsonrpc, methods
from narthex_bridge.protocol.eras import LATEST_SESSION, Era, negotiate
from narthex_bridge.protocol.jsonrpc import Answer, Id, Message, Notification
from narthex_bridge.protocol.methods import DEFAULT_LOG_LEVEL
from narthex_bridge.sessions.asks import Asks
from narthex_bridge.streams.stream import Stream

MAX_PENDING = 64


@dataclass(slots=True, eq=False)
class Session:
    """One client. `stream` is its open stream for messages that answer no request; `log_level` None means no logs.

    `capabilities` (JSON) and `subscriptions` are what it declared and asked for; with the others they are what
    `SessionStore.keep` keeps. `asks` are questions to the client, which wait for its answers. `watched` ends the
    watching of a resource. `pending` are messages that wait for its stream, each once. `listener` is the replica that
    has the stream, of several. `kept` is what was last written down; None for a session that ends with its connection
    or its process.
    """

    caller: Caller
    id: str = ""
    era: Era = LATEST_SESSION
    log_level: str | None = DEFAULT_LOG_LEVEL
    initialized: bool = False
    capabilities: bytes = b""
    subscriptions: set[str] = field(default_factory=set)
    watched: dict[str, Callable[[], None]] = field(default_factory=dict)
    calls: dict[Id, asyncio.Task[None]] = field(default_factory=dict)
    asks: Asks = field(default_factory=Asks)
    stream: Outbox | None = None
    listening: Stream | None = None
    pending: dict[bytes, None] = field(default_factory=dict)
    listener: str = ""
    touched: float = field(default_factory=time.monotonic)
    kept: Mapping[str, bytes] | None = None
    _speaker: Caller | None = field(default=None, init=False)

    @property
    def speaker(self) -> Caller:
        """The caller in this session, as the server is told; without an id the caller alone."""
        if self._speaker is None and self.id:
            self._speaker = self.caller.within(self.id)
        return self._speaker or self.caller

    @property
    def has_spoken(self) -> bool:
        """Whether the server may know of it, from this process or, where it is kept, from another."""
        return self._speaker is not None or self.kept is not None

    def cancel(self, request_id: Id) -> bool:
        """Cancels a request in work; False for one that is unknown here or already over, which is nobody's fault."""
        task = self.calls.get(request_id)
        if task is not None:
            task.cancel()
        return task is not None

    def deliver(self, messages: Sequence[Message]) -> bool:
        """Acts on answers and cancellations; False where one of them means nothing here."""
        known = True
        for message in messages:
            match message:
                case Answer():
                    known &= self.asks.answered(message)
                case Notification() if (cancelled := methods.cancelled_id(message)) is not None:
                    known &= self.cancel(cancelled)
        return known

    def close(self) -> None:
        """Ends everything of this session."""
        for task in list(self.calls.values()):
            task.cancel()
        for end in self.watched.values():
            end()
        self.watched.clear()
        if self.stream is not None:
            self.stream.drop(len(self.stream.peek()))
            self.stream.close()

    def notify(self, message: bytes) -> bool:
        """Sends an unasked message to an initialized client, or keeps it for its stream to come; False if it waits."""
        if not self.initialized or (self.stream is not None and self.stream.offer(message)):
            return True
        if len(self.pending) < MAX_PENDING:
            self.pending[jsonrpc.compact(message)] = None
        return False

    def values(self) -> dict[str, bytes]:
        """What is kept of it."""
        found = {
            "log_level": self.log_level,
            "initialized": self.initialized,
            "subscriptions": sorted(self.subscriptions),
            "pending": [message.decode() for message in self.pending],
        }
        encoded = {name: orjson.dumps(value) for name, value in found.items()}
        # Who may use it is compared as bytes.
        own = {"principal": self.caller.assertion.encode(), "era": self.era.version.encode()}
        return encoded | own | {"capabilities": self.capabilities}

    def restore(self, values: Mapping[str, bytes]) -> None:
        """Becomes what was kept."""
        self.era = negotiate(values["era"].decode())
        self.log_level = orjson.loads(values["log_level"])
        self.initialized = orjson.loads(values["initialized"])
        self.capabilities = values["capabilities"]
        self.subscriptions = set(orjson.loads(values["subscriptions"]))
        self.listener = values.get("listener", b"").decode()
        self.kept = values
