"""The sessions of all callers: who may use which, how many and how large, and one run at a time on each."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from narthex_server.agent.sessions.session import Owner, Session, Summary, dumped, unfinished
from narthex_server.agent.sessions.store import SessionStore
from narthex_server.errors import FailedPrecondition, NotFound, ResourceExhausted
from narthex_server.principal import Principal
from narthex_server.text.messages import Message


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Of one caller: how many sessions; bytes and messages of one, and bytes of all together."""

    count: int = 100
    bytes: int = 1 << 20
    messages: int = 1000
    total_bytes: int = 16 << 20


class Sessions:
    """Opens sessions of a store."""

    def __init__(
        self, store: SessionStore, limits: SessionLimits = SessionLimits(), clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._busy: set[tuple[Owner, str]] = set()

    async def list(self, principal: Principal) -> Sequence[Summary]:
        return await self._store.list(_owner(principal))

    async def get(self, principal: Principal, session_id: str) -> Session:
        """Raises NotFound where the caller has no such session."""
        if (session := await self._store.read(_owner(principal), session_id)) is None:
            raise NotFound(f"there is no session {session_id[:100]!r}", reason="SESSION_NOT_FOUND")
        return session

    async def forget(self, principal: Principal, session_id: str) -> None:
        """Raises NotFound, and FailedPrecondition while the session is in use."""
        await self.get(principal, session_id)
        self._check_free(_owner(principal), session_id)
        await self._store.write(_owner(principal), session_id, None)

    @asynccontextmanager
    async def open(self, principal: Principal, session_id: str = "") -> AsyncIterator["Conversation"]:
        """The session of this id, or a new one, for nobody else meanwhile; nothing is kept of it before it is saved.

        Raises:
            NotFound: the caller has no such session.
            FailedPrecondition: it is in use.
            ResourceExhausted: the caller has too many, or it or all of them have grown too large.
        """
        owner = _owner(principal)
        if session_id:
            await self.get(principal, session_id)
        new = not session_id
        session_id = session_id or secrets.token_urlsafe(24)
        self._check_free(owner, session_id)
        self._busy.add((owner, session_id))
        try:
            now = self._clock()
            session = Session(Summary(session_id, now, now)) if new else await self.get(principal, session_id)
            await self._check_room(owner, session, new)
            yield Conversation(self._store, owner, session, self._clock)
        finally:
            self._busy.discard((owner, session_id))

    def _check_free(self, owner: Owner, session_id: str) -> None:
        if (owner, session_id) in self._busy:
            raise FailedPrecondition(
                f"session {session_id!r} is in use by another call; wait for its end, or abort it",
                reason="SESSION_BUSY",
                metadata={"session_id": session_id},
            )

    async def _check_room(self, owner: Owner, session: Session, new: bool) -> None:
        limits, all_of_them = self._limits, await self._store.list(owner)
        there = {one.id for one in all_of_them} | {name for whose, name in self._busy if whose == owner}
        if new and len(there) > limits.count:
            raise _too_much(
                "SESSION_COUNT", f"there may be {limits.count} sessions; delete one, or wait until one expires"
            )
        if session.summary.size > limits.bytes or session.summary.count > limits.messages:
            raise _too_much(
                "SESSION_SIZE",
                f"the session has {session.summary.count} messages of {session.summary.size} bytes; one with more than "
                f"{limits.messages} or {limits.bytes} takes no further ones; begin a new one",
            )
        total = sum(one.size for one in all_of_them)
        if total > limits.total_bytes:
            raise _too_much(
                "SESSION_QUOTA", f"all sessions have {total} bytes, and may have {limits.total_bytes}; delete one"
            )


class Conversation:
    """An open session."""

    def __init__(self, store: SessionStore, owner: Owner, session: Session, clock: Callable[[], float]) -> None:
        self._store = store
        self._owner = owner
        self._clock = clock
        self.session = session

    @property
    def id(self) -> str:
        return self.session.summary.id

    def continued(self) -> tuple[Message, ...]:
        """The messages of a run that was broken off; raises FailedPrecondition where there is nothing to go on with."""
        if not self.session.summary.unfinished:
            raise FailedPrecondition(
                "no run of this session was broken off; send messages instead", reason="SESSION_COMPLETE"
            )
        return self.session.messages

    async def save(self, messages: tuple[Message, ...], model: str) -> None:
        """Keeps these as all messages of the session."""
        summary = replace(
            self.session.summary,
            used=self._clock(),
            model=model,
            count=len(messages),
            size=len(dumped(messages)),
            unfinished=unfinished(messages),
        )
        self.session = Session(summary, messages)
        await self._store.write(self._owner, self.id, self.session)


def _owner(principal: Principal) -> Owner:
    return Owner(principal.tenant, principal.name)


def _too_much(reason: str, message: str) -> ResourceExhausted:
    return ResourceExhausted(message, reason=reason)
