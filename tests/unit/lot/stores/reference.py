"""A store of tickets that is as simple as its promises allow: everything in memory, everything looked through."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field, replace

from narthex_server.errors import AlreadyExists, ResourceExhausted
from narthex_server.lot.stores.feed import Feed
from narthex_server.lot.stores.store import TELLING_SECONDS, Lease, LeaseLost
from narthex_server.lot.ticket import Change, Holding, Order, Outcome, Quota, State, Ticket


@dataclass
class Entry:
    ticket: Ticket
    events: list[bytes] = field(default_factory=list)
    until: float | None = None
    """When the lease runs out."""
    due: float | None = None
    """When the webhook is to be told."""


@dataclass
class Data:
    """What several servers share."""

    now: float
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    feed: Feed = field(default_factory=Feed)


class ReferenceTickets:
    def __init__(self, data: Data, quota: Quota) -> None:
        self._data = data
        self._quota = quota

    async def add(self, order: Order, lease: float | None = None) -> tuple[Ticket, bool]:
        for entry in self._there():
            other = entry.ticket.order
            if order.key and (other.tenant, other.key) == (order.tenant, order.key):
                if other.digest != order.digest:
                    raise AlreadyExists("another order has this key", reason="KEY_REUSED")
                return entry.ticket, False
        if self._find(order.tenant, order.id) is not None:
            raise AlreadyExists("the id is taken", reason="TICKET_EXISTS")
        before = dict(self._data.entries)
        for entry in before.values():
            other = entry.ticket.order
            same = other.id == order.id or (order.key and other.key == order.key)
            if other.tenant == order.tenant and same:  # has expired
                del self._data.entries[other.tenant, other.id]
        holding = await self.holding(order.tenant)
        if holding.open >= self._quota.open or holding.size + len(order.request) > self._quota.size:
            self._data.entries = before
            raise ResourceExhausted("full", reason="LOT_FULL")
        entry = Entry(Ticket(order, size=len(order.request)))
        self._data.entries[order.tenant, order.id] = entry
        if lease is not None:
            entry.ticket = replace(entry.ticket, state=State.RUNNING, attempt=1, started=self._data.now)
            entry.until = self._data.now + lease
        self._tell(entry)
        return entry.ticket, True

    async def take(self, most: int, lease: float) -> Sequence[Ticket]:
        taken: list[Ticket] = []
        while len(taken) < most:
            running: dict[str, int] = {}
            for entry in self._data.entries.values():
                if entry.ticket.state is State.RUNNING and not self._lapsed(entry):
                    running[entry.ticket.order.tenant] = running.get(entry.ticket.order.tenant, 0) + 1
            candidates = [entry for entry in self._data.entries.values() if self._takeable(entry)]
            if not candidates:
                break
            entry = min(
                candidates,
                key=lambda one: (running.get(one.ticket.order.tenant, 0), one.ticket.order.rank, one.ticket.order.id),
            )
            self._change(
                entry,
                state=State.RUNNING,
                attempt=entry.ticket.attempt + 1,
                started=self._data.now if entry.ticket.started is None else entry.ticket.started,
            )
            entry.until = self._data.now + lease
            taken.append(entry.ticket)
        return taken

    async def renew(self, leases: Collection[Lease], lease: float) -> Collection[Lease]:
        held = [one for one in leases if self._held(one) is not None]
        for one in held:
            self._data.entries[one.tenant, one.ticket].until = self._data.now + lease
        return held

    async def append(self, lease: Lease, events: Sequence[bytes]) -> int:
        entry = self._mine(lease)
        size = sum(map(len, events))
        if (await self.holding(entry.ticket.order.tenant)).size + size > self._quota.size:
            raise ResourceExhausted("full", reason="LOT_FULL")
        self._keep(entry, events)
        self._tell(entry)
        return entry.ticket.events

    async def move(self, lease: Lease, state: State) -> Ticket:
        entry = self._mine(lease)
        if entry.ticket.state is not state:
            self._change(entry, state=state)
        return bare(entry.ticket)

    async def finish(self, lease: Lease, outcome: Outcome, events: Sequence[bytes] = ()) -> Ticket:
        entry = self._mine(lease)
        self._keep(entry, events)
        self._end(entry, outcome)
        return bare(entry.ticket)

    async def release(self, lease: Lease) -> None:
        entry = self._mine(lease)
        entry.until = None
        self._change(entry, state=State.WAITING)

    async def cancel(self, tenant: str, ticket: str) -> Ticket | None:
        entry = self._find(tenant, ticket)
        if entry is None:
            return None
        if entry.ticket.state.over:
            entry.events.clear()
            entry.due = None
            entry.ticket = replace(entry.ticket, events=0, size=0, order=replace(entry.ticket.order, request=b""))
            self._change(entry, expires=self._data.now)
        else:
            self._end(entry, Outcome(State.CANCELLED))
        return bare(entry.ticket)

    async def get(self, tenant: str, ticket: str) -> Ticket | None:
        entry = self._find(tenant, ticket)
        return None if entry is None else entry.ticket

    async def ahead(self, tenant: str, ticket: str) -> int:
        entry = self._find(tenant, ticket)
        if entry is None or entry.ticket.state is not State.WAITING:
            return 0
        order = entry.ticket.order
        before: dict[str, int] = {}
        for other in self._data.entries.values():
            one = other.ticket.order
            if other.ticket.state is State.WAITING and (one.rank, one.id) < (order.rank, order.id):
                before[one.tenant] = before.get(one.tenant, 0) + 1
        own = before.pop(tenant, 0)
        return own + sum(min(count, own + 1) for count in before.values())

    async def list(
        self, tenant: str, states: Collection[State], before: tuple[float, str] | None, most: int
    ) -> Sequence[Ticket]:
        found = [
            bare(entry.ticket)
            for entry in self._there()
            if entry.ticket.order.tenant == tenant
            and (not states or entry.ticket.state in states)
            and (before is None or (entry.ticket.order.submitted, entry.ticket.order.id) < before)
        ]
        return sorted(found, key=lambda one: (one.order.submitted, one.order.id), reverse=True)[:most]

    async def events(self, tenant: str, ticket: str, after: int, most_bytes: int) -> Sequence[bytes]:
        entry = self._find(tenant, ticket)
        given: list[bytes] = []
        for event in entry.events[after:] if entry is not None else ():
            if given and sum(map(len, given)) + len(event) > most_bytes:
                break
            given.append(event)
        return given

    async def holding(self, tenant: str | None) -> Holding:
        own = [one.ticket for one in self._data.entries.values() if tenant in (None, one.ticket.order.tenant)]
        there = [one.ticket for one in self._there() if tenant in (None, one.ticket.order.tenant)]
        return Holding(
            open=sum(not one.state.over for one in own),
            parked=sum(one.state.over for one in there),
            size=sum(one.size for one in own),
        )

    async def sweep(self) -> Sequence[Ticket]:
        self._data.entries = {(one.ticket.order.tenant, one.ticket.order.id): one for one in self._there()}
        ended = []
        for entry in self._data.entries.values():
            late = entry.ticket.order.deadline is not None and entry.ticket.order.deadline <= self._data.now
            if late and (entry.ticket.state is State.WAITING or self._lapsed(entry)):
                self._end(entry, Outcome(State.CANCELLED))
                ended.append(bare(entry.ticket))
        return ended

    def changes(self) -> AsyncIterator[Change]:
        return self._data.feed.subscribe()

    async def owed(self, most: int) -> Sequence[Ticket]:
        due = [entry for entry in self._there() if entry.due is not None and entry.due <= self._data.now]
        due.sort(key=lambda entry: (entry.due, entry.ticket.order.id))
        place = {id(entry): _turn(entry, due) for entry in due}
        due.sort(key=lambda entry: place[id(entry)])  # stable
        for entry in due[:most]:
            entry.due = self._data.now + TELLING_SECONDS
        return [bare(entry.ticket) for entry in due[:most]]

    async def told(self, tenant: str, ticket: str, again: float | None) -> None:
        entry = self._data.entries.get((tenant, ticket))
        if entry is not None and entry.due is not None:
            entry.due = None if again is None else self._data.now + again

    async def close(self) -> None:
        pass

    def _there(self) -> Sequence[Entry]:
        now = self._data.now
        entries = self._data.entries.values()
        return [entry for entry in entries if entry.ticket.expires is None or entry.ticket.expires > now]

    def _find(self, tenant: str, ticket: str) -> Entry | None:
        found = (one for one in self._there() if (one.ticket.order.tenant, one.ticket.order.id) == (tenant, ticket))
        return next(found, None)

    def _lapsed(self, entry: Entry) -> bool:
        return entry.until is not None and entry.until <= self._data.now

    def _takeable(self, entry: Entry) -> bool:
        deadline = entry.ticket.order.deadline
        if deadline is not None and deadline <= self._data.now:
            return False
        return entry.ticket.state is State.WAITING or self._lapsed(entry)

    def _held(self, lease: Lease) -> Entry | None:
        entry = self._data.entries.get((lease.tenant, lease.ticket))
        if entry is None or entry.ticket.attempt != lease.attempt or entry.until is None:
            return None
        return entry

    def _mine(self, lease: Lease) -> Entry:
        entry = self._held(lease)
        if entry is None:
            raise LeaseLost
        return entry

    def _keep(self, entry: Entry, events: Sequence[bytes]) -> None:
        entry.events.extend(events)
        size = entry.ticket.size + sum(map(len, events))
        entry.ticket = replace(entry.ticket, events=len(entry.events), size=size)

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        now = self._data.now
        entry.until = None
        entry.due = None if entry.ticket.order.webhook is None else now
        expires = now + entry.ticket.order.keep
        self._change(entry, state=outcome.state, code=outcome.code, status=outcome.status, ended=now, expires=expires)

    def _change(self, entry: Entry, **what: object) -> None:
        entry.ticket = replace(entry.ticket, version=entry.ticket.version + 1, **what)
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        one = entry.ticket
        self._data.feed.publish([Change(one.order.tenant, one.order.id, one.version, one.events)])


def bare(ticket: Ticket) -> Ticket:
    """Without its request."""
    return replace(ticket, order=replace(ticket.order, request=b""))


def _turn(entry: Entry, due: Sequence[Entry]) -> int:
    """Its place among those of its tenant."""
    return [one for one in due if one.ticket.order.tenant == entry.ticket.order.tenant].index(entry)
