"""MCP sessions: what a client has agreed on, and its calls in work."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from narthex_bridge.asks import Asks
from narthex_bridge.caller import Caller
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol.eras import LATEST_SESSION, Era
from narthex_bridge.protocol.jsonrpc import Id
from narthex_bridge.protocol.methods import DEFAULT_LOG_LEVEL
from narthex_bridge.protocol.notifications import list_changed

MAX_PENDING = 1000


@dataclass(slots=True, eq=False)
class Session:
    """One client. `stream` is its open stream for messages that answer no request, `pending` those that wait for it;
    `capabilities` is what the client can do (JSON), `log_level` None means no logs, `subscriptions` ends the watching
    of resources."""

    caller: Caller
    id: str = ""
    era: Era = LATEST_SESSION
    capabilities: bytes = b""
    log_level: str | None = DEFAULT_LOG_LEVEL
    initialized: bool = False
    calls: dict[Id, asyncio.Task[None]] = field(default_factory=dict)
    stream: Outbox | None = None
    pending: dict[bytes, None] = field(default_factory=dict)
    asks: Asks = field(default_factory=Asks)
    subscriptions: dict[str, Callable[[], None]] = field(default_factory=dict)
    touched: float = field(default_factory=time.monotonic)

    def cancel(self, request_id: Id) -> None:
        """Cancels a request in work; one that is unknown or already over is nobody's fault."""
        task = self.calls.get(request_id)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Ends everything of this session."""
        for task in list(self.calls.values()):
            task.cancel()
        for end in self.subscriptions.values():
            end()
        self.subscriptions.clear()
        if self.stream is not None:
            self.stream.close()

    def deliver(self, message: bytes) -> None:
        """Sends an initialized client a notification, or keeps it until it opens its stream; told twice counts once."""
        if not self.initialized or (self.stream is not None and self.stream.offer(message)):
            return
        if len(self.pending) < MAX_PENDING:
            self.pending[message] = None

    def take_pending(self) -> list[bytes]:
        """What waited for the stream."""
        messages = list(self.pending)
        self.pending.clear()
        return messages


class SessionStore:
    """The sessions of this process, found by id and caller; idle ones are forgotten."""

    def __init__(self, limit: int, idle_s: float) -> None:
        self._limit = limit
        self._idle_s = idle_s
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def full(self) -> bool:
        return len(self._sessions) >= self._limit

    def add(self, session: Session) -> None:
        """Gives the session its id, which cannot be guessed, and keeps it."""
        session.id = secrets.token_urlsafe(24)
        self._sessions[session.id] = session

    def get(self, session_id: str, caller: Caller) -> Session | None:
        """The caller's session of this id; another caller's does not exist for it."""
        session = self._sessions.get(session_id)
        if session is None or session.caller != caller:
            return None
        session.touched = time.monotonic()
        return session

    def remove(self, session: Session) -> None:
        """Ends and forgets a session."""
        self._sessions.pop(session.id, None)
        session.close()

    def list_changed(self, kind: str) -> None:
        """Tells every client that a list has changed."""
        message = list_changed(kind)
        for session in self._sessions.values():
            session.deliver(message)

    def close_streams(self, *, idle_only: bool) -> None:
        """Ends the waiting streams of all sessions, or of those without a call in work, whose answer may be on it."""
        for session in self._sessions.values():
            if session.stream is not None and not (idle_only and session.calls):
                session.stream.close()

    async def forget_idle(self) -> None:
        """Forgets, for ever, the sessions that had no traffic, stream or call for the idle time."""
        while True:
            await asyncio.sleep(min(self._idle_s / 4, 60.0))
            oldest = time.monotonic() - self._idle_s
            for session in list(self._sessions.values()):
                if session.touched < oldest and session.stream is None and not session.calls:
                    self.remove(session)
