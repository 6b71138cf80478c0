"""One upstream with a connection for each tenant, or each session, that uses it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from narthex_server.errors import ResourceExhausted
from narthex_server.principal import Principal
from narthex_server.tools.audience import Audience
from narthex_server.tools.completion import Completion, Reference, Typed
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.server import ServerState, ServerStatus, UpstreamServer, Vitals, together
from narthex_server.tools.tool import CallContext, InputRequired, Tool, ToolEvent
from narthex_server.tools.upstream.face import Face
from narthex_server.tools.upstream.seat import Seat


@dataclass(frozen=True, slots=True)
class ScopeLimits:
    """How many connections there may be, and how many seconds one is kept without use."""

    per_upstream: int = 64
    per_tenant: int = 16
    tenant_idle: float = 600.0
    session_idle: float = 1800.0


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose a connection is; of a tenant as a whole `caller` and `session` are empty."""

    tenant: str
    caller: str = ""
    session: str = ""


class ScopedUpstream:
    """An UpstreamServer over several connections to one; used on the event loop only.

    What it offers is what a connection lists that nobody calls on, so that no caller can put anything into what others
    read there; a tenant whose own connection lists something else sees that while it has the connection. An owner's
    connection begins with its first call, and ends when it was not used for a while.
    """

    def __init__(
        self,
        scope: Literal["tenant", "session"],
        connect: Callable[[], UpstreamServer],
        limits: ScopeLimits = ScopeLimits(),
    ) -> None:
        """`connect` makes a connection, not started."""
        self._scope: Literal["tenant", "session"] = scope
        self._connect = connect
        self._limits = limits
        self._idle = limits.tenant_idle if scope == "tenant" else limits.session_idle
        self._lister = connect()
        self._seats: dict[_Owner, Seat] = {}
        self._faces: dict[str, Face] = {}  # by tenant
        self._changed: Callable[[], None] = _nothing
        self._closing: set[asyncio.Task[None]] = set()
        self._left = Vitals()  # of connections that are no more

    @property
    def name(self) -> str:
        return self._lister.name

    @property
    def presentation(self) -> Presentation:
        return self._lister.presentation

    @property
    def tenants(self) -> Audience:
        return self._lister.tenants

    @property
    def status(self) -> ServerStatus:
        """That of the listing connection, and how many there are in all that are up; for any thread."""
        up = sum(seat.server.status.connections for seat in tuple(self._seats.values()))
        status = self._lister.status
        return replace(status, scope=self._scope, connections=status.connections + up)

    @property
    def vitals(self) -> Vitals:
        seats = (seat.server.vitals for seat in tuple(self._seats.values()))
        return together((self._lister.vitals, *seats, self._left))

    def vitals_of(self, tenant: str) -> Vitals:
        own = (seat.server.vitals for owner, seat in self._seats.items() if owner.tenant == tenant)
        return together((self._lister.vitals, *own))

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self._lister.tools

    @property
    def cache(self) -> CacheRule | None:
        return self._lister.cache

    @property
    def has_resources(self) -> bool:
        return self._lister.has_resources

    @property
    def resources(self) -> tuple[Resource, ...]:
        return self._lister.resources

    @property
    def templates(self) -> tuple[ResourceTemplate, ...]:
        return self._lister.templates

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self._lister.prompts

    def seen_by(self, tenant: str) -> UpstreamServer:
        return self._faces.get(tenant, self)

    def edition(self, context: CallContext) -> Hashable:
        """That of what offers and that of the caller's own connection, which is started where there is none."""
        seat = self._seat(context)
        return self._lister.edition(context), self._owner(context), seat.server.edition(context)

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lister.start(self._relisted)

    async def settled(self) -> None:
        await self._lister.settled()

    def reconnect(self, tenant: str | None = None) -> None:
        """A tenant connects its own anew, and the listing one where that is down: others do not notice."""
        if tenant is None or self._lister.status.state is not ServerState.READY:
            self._lister.reconnect()
        for owner, seat in self._seats.items():
            if tenant in (None, owner.tenant):
                seat.server.reconnect()

    def end_session(self, principal: Principal, session: str) -> None:
        if self._scope == "session" and session:
            self._leave(_Owner(principal.tenant, principal.name, session))

    async def drain(self, grace: float) -> None:
        await asyncio.gather(*(seat.server.drain(grace) for seat in self._seats.values()))

    async def stop(self) -> None:
        for owner in list(self._seats):
            self._leave(owner)
        await asyncio.gather(self._lister.stop(), *self._closing)

    async def call(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncGenerator[ToolEvent]:
        with self._seat(context).used() as seat:
            await seat.ready(context)
            events = cast(AsyncGenerator[ToolEvent], seat.server.call(tool, arguments, context))
            async with aclosing(events):
                async for event in events:
                    yield event

    async def read(self, uri: str, context: CallContext) -> Contents | InputRequired:
        with self._seat(context).used() as seat:
            await seat.ready(context)
            return await seat.server.read(uri, context)

    async def fill(self, prompt: str, arguments: dict[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        with self._seat(context).used() as seat:
            await seat.ready(context)
            return await seat.server.fill(prompt, arguments, context)

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        with self._seat(context).used() as seat:
            await seat.ready(context)
            return await seat.server.complete(reference, typed, context)

    def line(self, context: CallContext) -> Seat:
        return self._seat(context)

    def _seat(self, context: CallContext) -> Seat:
        """The caller's connection, which is started where there is none; raises ResourceExhausted."""
        owner = self._owner(context)
        if (seat := self._seats.get(owner)) is None:
            self._check(owner)
            seat = self._seats[owner] = Seat(self._connect(), self._idle, lambda: self._leave(owner))
            seat.server.start(lambda: self._news(owner, seat))
        return seat

    def _owner(self, context: CallContext) -> _Owner:
        principal = context.principal
        if self._scope == "tenant":
            return _Owner(principal.tenant)
        return _Owner(principal.tenant, principal.name, context.session)

    def _relisted(self) -> None:
        for owner, seat in self._seats.items():
            self._look(owner, seat)
        self._changed()

    def _news(self, owner: _Owner, seat: Seat) -> None:
        apart = owner.tenant in self._faces
        self._look(owner, seat)
        if apart or owner.tenant in self._faces:
            self._changed()

    def _look(self, owner: _Owner, seat: Seat) -> None:
        """Whether the tenant sees its own; a connection that was not up yet, or has gone, says nothing of that.

        Of sessions only the one knows that has it, and what a tenant sees is the same for all its sessions.
        """
        if self._scope == "session" or self._seats.get(owner) is not seat or not _offers(seat.server):
            return
        if _offers(seat.server) == _offers(self._lister):
            self._faces.pop(owner.tenant, None)
        elif owner.tenant not in self._faces:
            self._faces[owner.tenant] = Face(self, seat.server)

    def _check(self, owner: _Owner) -> None:
        mine = sum(owner.tenant == other.tenant for other in self._seats)
        if mine >= self._limits.per_tenant:
            text = f"the sessions of one tenant have at most {self._limits.per_tenant} connections to it"
        elif len(self._seats) + len(self._closing) >= self._limits.per_upstream:
            text = f"there are as many connections to it as there may be ({self._limits.per_upstream})"
        else:
            return
        raise ResourceExhausted(
            f"upstream {self.name!r}: {text}; one that is not used is closed after {self._idle:g} s",
            reason="TOO_MANY_UPSTREAM_CONNECTIONS",
            metadata={"upstream": self.name},
        )

    def _leave(self, owner: _Owner) -> None:
        if (seat := self._seats.pop(owner, None)) is not None:
            self._left = together(
                (self._left, replace(seat.server.vitals, breaker=None, breaker_retry=0.0, processes=()))
            )
            closing = asyncio.create_task(seat.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            if self._faces.pop(owner.tenant, None) is not None:
                self._changed()


def _offers(server: UpstreamServer) -> tuple[object, ...]:
    """All that it lists; empty where it has not yet, which is no list without entries."""
    listed = (server.tools, server.resources, server.templates, server.prompts, server.has_resources)
    return listed if any(listed) or server.status.state is ServerState.READY else ()


def _nothing() -> None:
    pass
