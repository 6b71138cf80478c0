"""Where orders are taken in, and where those who gave them come back."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, replace

from narthex_server.errors import NotFound, OutOfRange, Unavailable
from narthex_server.lot.crew import Crew
from narthex_server.lot.forever import forever
from narthex_server.lot.news import MOST_KNOWN, News
from narthex_server.lot.shared import Shared
from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.ticket import Holding, Order, State, Ticket
from narthex_server.lot.transition import TicketObserver, Transition, Verb

BATCH_BYTES = 1 << 18
"""Bytes of events that are asked for at a time."""

PAGE = 100
"""Tickets of a page of all that a tenant has."""

AHEAD_SECONDS = 1.0
"""For so long it is not counted again how many go before a ticket: it is an estimate, and counting costs."""

RETRY = 1.0
"""Seconds until changes are asked for again where the store failed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that happened in a ticket's work, the `sequence`th thing."""

    sequence: int
    event: bytes


class Desk:
    """Tenants' view of their tickets; used on the event loop."""

    def __init__(
        self,
        store: TicketStore,
        crew: Crew,
        news: News,
        observer: TicketObserver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._crew = crew
        self._news = news
        self._observer = observer
        self._clock = clock
        self._now: Shared[tuple[str, str], Ticket | None] = Shared(lambda name: store.get(*name))
        self._pages: Shared[tuple[str, tuple[float, str] | None], Sequence[Ticket]] = Shared(
            lambda page: store.list(page[0], (), page[1], PAGE)
        )
        self._ahead: Shared[tuple[str, str], int] = Shared(lambda name: store.ahead(*name), AHEAD_SECONDS)

    async def submit(self, order: Order) -> Ticket:
        """Takes an order in, or gives the ticket of the one before with its key. Errors: those of `TicketStore.add`."""
        self._open()
        ticket, new = await self._store.add(order)
        if new:
            self._told(Verb.SUBMITTED, ticket)
            self._crew.hear(ticket.change)
        return ticket

    async def begin(self, order: Order) -> tuple[Ticket, bool]:
        """As `submit`, and the work begins here at once. True where it is new."""
        self._open()
        with self._crew.expecting(order.tenant, order.id):
            ticket, new = await self._store.add(order, self._crew.lease)
            if new:
                self._told(Verb.SUBMITTED, ticket)
                self._crew.begin(ticket)
        return ticket, new

    async def get(self, tenant: str, ticket: str) -> Ticket:
        """Raises NotFound where the tenant has no such ticket, or its result has expired."""
        found = await self._store.get(tenant, ticket)
        if found is None or (found.expires is not None and found.expires <= self._clock()):
            raise missing(ticket)
        return found

    async def ahead(self, ticket: Ticket) -> int:
        """How many are probably taken before it."""
        waits = ticket.state is State.WAITING
        return await self._ahead((ticket.order.tenant, ticket.order.id)) if waits else 0

    async def cancel(self, tenant: str, ticket: str) -> Ticket:
        """Ends its work, or throws its result away; as it was then. Raises NotFound."""
        over = (await self.get(tenant, ticket)).state.over
        was = await self._store.cancel(tenant, ticket)
        if was is None:
            raise missing(ticket)
        self._crew.lose(tenant, ticket)
        if over:
            self._told(Verb.DISCARDED, replace(was, version=was.version + 1))
        else:
            self._told(Verb.CANCELLED, was)
        return was

    async def list(
        self, tenant: str, states: Collection[State], before: tuple[float, str] | None, most: int
    ) -> Sequence[Ticket]:
        """As TicketStore.list."""
        return await self._store.list(tenant, states, before, most)

    async def holding(self, tenant: str) -> Holding:
        """What the tenant has."""
        return await self._store.holding(tenant)

    async def follow(
        self, tenant: str, ticket: str, after: int = 0, until: float | None = None
    ) -> AsyncGenerator[Kept | Ticket]:
        """The ticket whenever it changes, and in between what happens in its work after the `after`th event.

        Ends with the ticket when it is over, or without when it is later than `until` on the event loop's clock and all
        that there is was told. Errors: NotFound; OutOfRange where there are fewer events yet; Unavailable
        while this server shuts down and no longer works on it.
        """
        version, job = 0, self._crew.find(tenant, ticket)
        with self._news.listen(tenant, (ticket,), events=True) as bell:
            while True:
                found = self._crew.find(tenant, ticket)
                if found is not None or job is None or not job.ticket.state.over:
                    job = found  # one that has come to its end is not found any more, but knows all
                if job is not None and (events := job.journal.after(after)) is not None:
                    now = job.ticket  # nothing has to be asked of the store
                else:
                    now = await self.get(tenant, ticket)
                    if after > now.events:
                        raise OutOfRange(
                            f"ticket {ticket!r} has {now.events} events so far, {after} is none of them",
                            reason="NO_SUCH_EVENT",
                        )
                    events = await self._store.events(tenant, ticket, after, BATCH_BYTES)
                if now.version > version and not now.state.over:
                    version = now.version
                    yield now
                for event in events:
                    after += 1
                    yield Kept(after, event)
                if now.state.over and after >= now.events:
                    yield now
                    return
                if now.state.over and not events:
                    raise missing(ticket)  # its result was thrown away meanwhile
                if self._crew.draining and self._crew.find(tenant, ticket) is None:
                    raise _draining()
                if events:
                    continue
                try:
                    async with asyncio.timeout_at(until):
                        await bell.heard()
                except TimeoutError:
                    return

    async def watch(self, tenant: str, tickets: Sequence[str]) -> AsyncGenerator[Ticket]:
        """The named tickets, and each again whenever it has changed; ends when all are over.

        Without names all that there are and will be, without an end. Raises NotFound where a named one is not there at
        the beginning; one that goes later is only not told of again.
        """
        with self._news.listen(tenant, tickets) as bell:
            versions: dict[str, int] = {}
            running: set[str] = set()
            async for ticket in self._named(tenant, tickets) if tickets else self._all(tenant):
                if not ticket.state.over:
                    running.add(ticket.order.id)
                if not ticket.state.over or len(versions) < MOST_KNOWN:
                    versions[ticket.order.id] = ticket.version
                yield ticket
            while running or not tickets:
                for name in await bell.heard() or [*running]:
                    now = await self._now((tenant, name))
                    if now is None or now.state.over:
                        running.discard(name)
                    else:
                        running.add(name)
                    if now is not None and now.version > versions.get(name, 0):
                        if len(versions) >= MOST_KNOWN:
                            versions = {one: version for one, version in versions.items() if one in running}
                        versions[name] = now.version
                        yield now
                if self._crew.draining:
                    raise _draining()

    async def read_changes(self) -> None:
        """Tells this server of what changes at others; works without an end."""
        await forever("following changes of tickets", self._hear, RETRY)

    async def _hear(self) -> None:
        changes = self._store.changes()
        self._news.wake()  # some may have been missed
        async for change in changes:
            self._crew.hear(change)
            self._news.tell(change)

    async def _named(self, tenant: str, tickets: Sequence[str]) -> AsyncGenerator[Ticket]:
        """All of them or none; without their requests, which are large."""
        found = []
        for name in dict.fromkeys(tickets):
            ticket = await self.get(tenant, name)
            found.append(replace(ticket, order=replace(ticket.order, request=b"")))
        for ticket in found:
            yield ticket

    async def _all(self, tenant: str) -> AsyncGenerator[Ticket]:
        before: tuple[float, str] | None = None
        while page := await self._pages((tenant, before)):
            for ticket in page:
                yield ticket
            before = page[-1].order.submitted, page[-1].order.id

    def _open(self) -> None:
        if self._crew.draining:
            raise _draining()

    def _told(self, verb: Verb, ticket: Ticket) -> None:
        self._news.tell(ticket.change)
        self._observer.on_transition(Transition(verb, ticket))


def _draining() -> Unavailable:
    return Unavailable("The server is shutting down.", reason="DRAINING")


def missing(ticket: str) -> NotFound:
    """What those are told who ask for a ticket that is none, or not theirs."""
    return NotFound(f"there is no ticket {ticket[:200]!r}, or it has expired", reason="TICKET_NOT_FOUND")
