"""MCP sessions: what a client has agreed on, and its calls in work."""

import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson

from narthex_bridge.caller import Caller
from narthex_bridge.metrics import Metrics
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.notifications import list_changed, updated
from narthex_bridge.sessions.session import Session
from narthex_bridge.stores.bus import Bus, Note
from narthex_bridge.stores.store import EventStore, SessionRecords, StoreUnavailable
from narthex_bridge.streams.stream import Stream

LISTS = ("tools", "resources", "prompts")
STREAM = "get"  # the name of a session's own stream


class SessionStore:
    """The sessions that this process knows, and through their records all others; idle ones are forgotten.

    Methods that are coroutines raise StoreUnavailable.
    """

    def __init__(self, limit: int, idle_s: float, records: SessionRecords, events: EventStore, bus: Bus) -> None:
        self._limit = limit
        self._idle_s = idle_s
        self._records = records
        self._events = events
        self._bus = bus
        self._sessions: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._restored: Callable[[Session], None] = _nothing
        self._ended: Callable[[Session], None] = _nothing

    def follow(self, restored: Callable[[Session], None], ended: Callable[[Session], None]) -> None:
        """From now on calls `restored` with each session that has become what it was, or is, elsewhere.

        And `ended` with each that is over.
        """
        self._restored, self._ended = restored, ended

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def full(self) -> bool:
        return len(self._sessions) >= self._limit

    def hold(self, session: Session) -> None:
        """Gives a session that lives as long as its connection its id, which cannot be guessed."""
        session.id = secrets.token_urlsafe(24)
        self._sessions[session.id] = session

    def held(self, session_id: str, caller: Caller) -> Session | None:
        """The caller's session of this id in this process; another caller's does not exist for it."""
        session = self._sessions.get(session_id)
        if session is None or session.caller != caller:
            return None
        session.touched = time.monotonic()
        return session

    def release(self, session: Session) -> None:
        """Ends a session that is nowhere else."""
        self._drop(session)
        self._ended(session)

    async def open(self, session: Session) -> None:
        """Gives a session its id, and keeps it for longer than this process where the store can."""
        session.id = secrets.token_urlsafe(24)
        if self._records.durable:
            session.kept = {}
        await self.keep(session, home=self._bus.replica.encode())
        self._sessions[session.id] = session

    async def find(self, session_id: str, caller: Caller) -> Session | None:
        """The caller's session of this id, wherever it was opened; another caller's does not exist for it."""
        session = self._sessions.get(session_id)
        if session is None or self._records.shared:
            session = await self._loaded(session_id, caller, session)
        if session is None or session.caller != caller:
            return None
        session.touched = time.monotonic()
        return session

    async def keep(self, session: Session, **more: bytes) -> None:
        """Writes down what has changed of a session."""
        if session.kept is None:
            return
        values = session.values() | more
        if changed := {name: value for name, value in values.items() if session.kept.get(name) != value}:
            await self._records.save(session.id, changed)
            session.kept = {**session.kept, **changed}
            if "subscriptions" in changed and self._records.shared:
                await self._bus.publish({"kind": "subscribed", "session": session.id})

    async def remove(self, session: Session) -> None:
        """Ends and forgets a session, everywhere."""
        await self._records.remove(session.id)
        await self._events.forget(session.id)
        await self._bus.publish({"kind": "ended", "session": session.id})
        self.release(session)

    async def listen(self, session: Session, metrics: Metrics, *, over: bool) -> Stream | None:
        """The session's stream, here from now on; where it is open already, only `over` that one, else None."""
        if not over and (session.stream is not None or await self._listened(session)):
            return None
        if session.listening is not None:
            return session.listening
        page = await self._events.read(session.id, STREAM, sys.maxsize)
        if not await self._bus.alive((session.kept or {}).get("home", b"").decode() or self._bus.replica):
            for message in (*map(list_changed, LISTS), *map(updated, session.subscriptions)):
                session.notify(message)  # nobody was there to see whether anything changed
        pending = [*_pending(session.kept), *session.pending]
        session.pending.clear()
        try:
            replica = self._bus.replica.encode()
            await self.keep(session, listener=replica, home=replica)
            await self._bus.publish({"kind": "listening", "session": session.id, "replica": self._bus.replica})
        except StoreUnavailable:
            session.pending.update(dict.fromkeys(pending))
            raise
        if session.listening is None:
            session.stream, session.listener = Outbox(), self._bus.replica
            last = page.last if page else 0
            session.listening = stream = Stream(
                session.id, STREAM, session.stream, self._events, metrics, lambda: self._unlisten(session, stream),
                finite=False, last=last,
            )  # fmt: skip
        for message in dict.fromkeys(pending):
            session.notify(message)
        return session.listening

    async def hand_on(self, session: Session, body: bytes) -> None:
        """Gives messages that mean nothing here (an answer, a cancellation) to the replica that waits for them."""
        if self._records.shared:
            await self._bus.publish({"kind": "messages", "session": session.id, "body": body.decode()})

    def hear(self, note: Note) -> None:
        """What other replicas tell about sessions."""
        session = self._sessions.get(note["session"])
        if session is None:
            return
        match note["kind"]:
            case "ended":
                self.release(session)
            case "messages":
                parsed = jsonrpc.parse(note["body"].encode())
                session.deliver(parsed if isinstance(parsed, list) else [parsed])
            case "subscribed":
                self._later(self._reload(session))
            case "listening":
                session.listener = note["replica"]
                if session.listener:
                    session.pending.clear()
                    if session.stream is not None:
                        session.stream.close()

    def notify(self, tenant: str, message: bytes) -> None:
        """Sends every client of the tenant an unasked message, each once, whichever replica has its stream."""
        told = [session for session in self._sessions.values() if session.caller.tenant == tenant]
        waiting = [session for session in told if not session.notify(message)]
        if durable := [session for session in waiting if session.kept is not None]:
            self._later(self._keep_pending(durable))

    def tell(self, session: Session, message: bytes) -> None:
        """Sends one client an unasked message, whichever replica has its stream."""
        if not session.notify(message) and session.kept is not None:
            self._later(self._keep_pending([session]))

    def list_changed(self, tenant: str, kind: str) -> None:
        """Tells every client of the tenant that a list has changed."""
        self.notify(tenant, list_changed(kind))

    def close_streams(self, *, idle_only: bool) -> None:
        """Ends the waiting streams of all sessions, or of those without a call in work, whose answer may be on it."""
        for session in self._sessions.values():
            if session.stream is not None and not (idle_only and session.calls):
                session.stream.close()

    async def settle(self) -> None:
        """Waits until what was to be written down is."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    async def forget_idle(self) -> None:
        """Forgets, for ever, the sessions that had no traffic, stream or call for the idle time, and old events."""
        pause = min(self._idle_s / 4, 60.0)
        while True:
            await asyncio.sleep(pause)
            now, used, idle = time.monotonic(), [], []
            for session in list(self._sessions.values()):
                if session.stream is not None or session.calls or session.touched > now - pause:
                    used.append(session.id)
                elif session.touched < now - self._idle_s:
                    idle.append(session.id)
                    if self._records.shared:
                        self._drop(session)
                    else:
                        self.release(session)
            with contextlib.suppress(StoreUnavailable):
                if not self._records.shared:  # what is idle here may be in use elsewhere
                    for session_id in idle:
                        await self._events.forget(session_id)
                await self._records.touch(used)
                await self._events.sweep()

    async def _loaded(self, session_id: str, caller: Caller, session: Session | None) -> Session | None:
        values = await self._records.load(session_id)
        if values is None:
            if session is not None and session.kept is not None:
                self.release(session)  # ended elsewhere
                return None
            return session
        if values.get("principal") != caller.assertion.encode():
            return None
        if (known := self._sessions.get(session_id)) is not None:
            if values != known.kept:
                known.restore(values)
                self._restored(known)
            return known
        session = self._sessions[session_id] = Session(caller, session_id)
        session.restore(values)
        self._restored(session)
        return session

    async def _reload(self, session: Session) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._loaded(session.id, session.caller, session)

    async def _listened(self, session: Session) -> bool:
        other = session.listener
        return self._records.shared and other not in ("", self._bus.replica) and await self._bus.alive(other)

    async def _keep_pending(self, sessions: list[Session]) -> None:
        for session in sessions:
            with contextlib.suppress(StoreUnavailable):
                if await self._listened(session):
                    session.pending.clear()  # the other one tells it
                else:
                    await self.keep(session)

    def _unlisten(self, session: Session, stream: Stream) -> None:
        """The stream has ended; what is still in it waits for the next one."""
        if session.listening is stream:
            session.listening = session.stream = None
        stream.outbox.close()
        if session.kept is not None:
            self._later(self._unlistened(session, stream))
            return
        for message in stream.outbox.peek():
            session.notify(message)

    async def _unlistened(self, session: Session, stream: Stream) -> None:
        with contextlib.suppress(StoreUnavailable):
            # What was being kept when its reader went counts as sent.
            page = await self._events.read(session.id, STREAM, stream.last)
            for message in stream.outbox.peek()[max(page.last - stream.last, 0) if page else 0 :]:
                session.notify(message)
            if session.listening is None and session.listener == self._bus.replica:
                session.listener = ""
                await self.keep(session, listener=b"")
                await self._bus.publish({"kind": "listening", "session": session.id, "replica": ""})

    def _drop(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        session.close()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _nothing(session: Session) -> None:
    pass


def _pending(kept: Mapping[str, bytes] | None) -> list[bytes]:
    return [message.encode() for message in orjson.loads(kept["pending"])] if kept else []
