"""What is done to tickets within one transaction."""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from narthex_server.errors import AlreadyExists, ResourceExhausted
from narthex_server.lot.stores.sqlite.rows import COLUMNS, NUMBERS, REQUEST, ticket
from narthex_server.lot.stores.sqlite.schema import DONE, INPUT_REQUIRED, RUNNING, WAITING, place
from narthex_server.lot.stores.sqlite.turns import Candidate, Head, turns
from narthex_server.lot.stores.store import TELLING_SECONDS, Lease, LeaseLost
from narthex_server.lot.ticket import Change, Order, Outcome, Quota, State, Ticket

FORGET = 100
"""Expired tickets that one transaction forgets, at most."""

FORGET_BYTES = 8 << 20
"""Their bytes, beyond which it forgets no further one."""

SHRINK = 256
"""Pages that one transaction gives back to the disk, at most."""

_HELD = f"tenant = ? and id = ? and attempt = ? and state in ({RUNNING}, {INPUT_REQUIRED})"
_IN_TIME = "(deadline is null or deadline > ?)"
_THERE = "(expires is null or expires > ?)"


class Book:
    """The tickets as a transaction that has begun sees them, at the time `now`; `changes` is what it has changed."""

    def __init__(self, connection: sqlite3.Connection, now: float, quota: Quota) -> None:
        self.connection = connection
        self.changes: list[Change] = []
        self._now = now
        self._quota = quota
        self._next = 0

    def add(self, order: Order, lease: float | None) -> tuple[Ticket, bool]:
        if order.key and (known := self._known(order)) is not None:
            return known, False
        self._make_way(order)
        self._claim(order)
        leased, size = lease is not None, len(order.request)
        state, attempt = (State.RUNNING, 1) if leased else (State.WAITING, 0)
        started = self._now if leased else None
        hook = order.webhook
        row = (
            order.id, order.tenant, order.key or None, order.principal, order.kind, order.digest, order.submitted,
            order.keep, order.deadline, int(order.priority), order.repeatable, hook and hook.url, hook and hook.secret,
            order.rank, NUMBERS[state], attempt, started, size, None if lease is None else self._now + lease,
            self._change(),
        )  # fmt: skip
        made = self.connection.execute(
            "insert into tickets (id, tenant, key, principal, kind, digest, submitted, keep, deadline, priority,"
            " repeatable, url, secret, rank, state, attempt, started, size, lease, change, version, events, code,"
            " status) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, 0, x'')",
            row,
        )
        self.connection.execute("insert into requests values (?, ?)", (made.lastrowid, order.request))
        if not leased:
            self._head(order.tenant)
        self.changes.append(Change(order.tenant, order.id, 1, 0))
        return Ticket(order, state, attempt=attempt, started=started, size=size), True

    def take(self, most: int, lease: float) -> Sequence[Ticket]:
        chosen = self._chosen(most)
        taken = []
        for candidate in chosen:
            taken.append(
                self._changed(
                    f"state = {RUNNING}, attempt = attempt + 1, started = ifnull(started, ?), lease = ?",
                    (self._now, self._now + lease),
                    "ref = ?",
                    (candidate.ref,),
                    columns=f"{COLUMNS}, {REQUEST}",
                )
            )
        for tenant in {one.order.tenant for one in taken}:
            self._head(tenant)
        return taken

    def renew(self, leases: Collection[Lease], lease: float) -> Collection[Lease]:
        until = self._now + lease
        return [one for one in leases if self._wrote(f"update tickets set lease = ? where {_HELD}", until, *_key(one))]

    def append(self, lease: Lease, events: Sequence[bytes]) -> int:
        _, version, after = self._keep(lease, events, self._quota.size)
        self.changes.append(Change(lease.tenant, lease.ticket, version, after))
        return after

    def move(self, lease: Lease, state: State) -> Ticket:
        if state not in (State.RUNNING, State.INPUT_REQUIRED):
            raise ValueError(f"work at a lease cannot become {state.value}")
        row = self._row(f"select {COLUMNS} from tickets where {_HELD}", *_key(lease))
        if row is None:
            raise LeaseLost
        now = ticket(row)
        return now if now.state is state else self._changed("state = ?", (NUMBERS[state],), _HELD, _key(lease))

    def finish(self, lease: Lease, outcome: Outcome, events: Sequence[bytes]) -> Ticket:
        if not outcome.state.over:
            raise ValueError(f"work does not end as {outcome.state.value}")
        ref, _, _ = self._keep(lease, events)
        return self._end(ref, outcome)

    def release(self, lease: Lease) -> None:
        given = self._changed(f"state = {WAITING}, lease = null", (), _HELD, _key(lease))
        self._head(given.order.tenant)

    def cancel(self, tenant: str, name: str) -> Ticket | None:
        row = self._row(
            f"select ref, state, size, events from tickets where tenant = ? and id = ? and {_THERE}",
            tenant, name, self._now,
        )  # fmt: skip
        if row is None:
            return None
        ref, state, size, events = row
        if state < DONE:
            ended = self._end(ref, Outcome(State.CANCELLED))
            if state == WAITING:
                self._head(tenant)
            return ended
        self._empty(ref, events)
        self._wrote("update tenants set size = size - ? where tenant = ?", size, tenant)
        return self._changed("events = 0, size = 0, expires = ?, due = null", (self._now,), "ref = ?", (ref,))

    def owed(self, most: int) -> Sequence[Ticket]:
        rows = self.connection.execute(
            f"select ref, {COLUMNS} from tickets where due <= ? and {_THERE}"
            " order by row_number() over (partition by tenant order by due, id), due, id, ref limit ?",
            (self._now, self._now, most),
        ).fetchall()
        again = self._now + TELLING_SECONDS
        self.connection.executemany("update tickets set due = ? where ref = ?", [(again, row[0]) for row in rows])
        return [ticket(row[1:]) for row in rows]

    def told(self, tenant: str, name: str, again: float | None) -> None:
        due = None if again is None else self._now + again
        self._wrote("update tickets set due = ? where tenant = ? and id = ? and due is not null", due, tenant, name)

    def forget(self) -> bool:
        """Some of what has expired; whether there may be more."""
        expired = f"select ref, tenant, events, size from tickets where expires <= ? order by expires limit {FORGET}"
        size = done = 0
        for row in self.connection.execute(expired, (self._now,)).fetchall():
            self._forget(*row)
            size, done = size + row[3], done + 1
            if size > FORGET_BYTES:
                return True
        return done == FORGET

    def overdue(self) -> Sequence[Ticket]:
        """Ends what nobody works on and whose time is over."""
        late = self.connection.execute(
            f"select ref from tickets where deadline <= ? and state < {DONE} and (state = {WAITING} or lease <= ?)",
            (self._now, self._now),
        ).fetchall()
        ended = [self._end(ref, Outcome(State.CANCELLED)) for (ref,) in late]
        for tenant in {one.order.tenant for one in ended}:
            self._head(tenant)
        return ended

    def shrink(self) -> bool:
        """Gives free pages back to the disk until a quarter of the file is free; whether there are more to give."""
        ((total,), (free,)) = (self._row(f"pragma {what}") for what in ("page_count", "freelist_count"))
        spare = int(free - total // 4)
        for _ in range(min(spare, SHRINK)):
            self.connection.execute("pragma incremental_vacuum(1)")  # the driver stops after the first page anyway
        return spare > SHRINK

    def counter(self) -> int:
        """How many transactions have changed tickets."""
        (counted,) = self._row("select change from counter") or (0,)
        return int(counted)

    def count(self) -> int:
        """Counts this one, where it has changed any; how many it is now."""
        if not self._next:
            return self.counter()
        self._wrote("update counter set change = ?", self._next)
        return self._next

    def changed(self, after: int) -> list[Change]:
        """What transactions after that one have changed."""
        rows = self.connection.execute(
            "select tenant, id, version, events from tickets where change > ? order by change", (after,)
        )
        return [Change(*row) for row in rows.fetchall()]

    def _known(self, order: Order) -> Ticket | None:
        row = self._row(
            f"select {COLUMNS}, {REQUEST} from tickets where tenant = ? and key = ? and {_THERE}",
            order.tenant, order.key, self._now,
        )  # fmt: skip
        if row is None:
            return None
        known = ticket(row)
        if known.order.digest != order.digest:
            raise AlreadyExists("another order has this idempotency key", reason="KEY_REUSED")
        return known

    def _make_way(self, order: Order) -> None:
        """Forgets what has expired and has the id or the key."""
        for where, what in (("id = ?", order.id), ("key = ?", order.key or None)):
            row = self._row(
                f"select ref, tenant, events, size, {_THERE} from tickets where tenant = ? and {where}",
                self._now, order.tenant, what,
            )  # fmt: skip
            if row is None:
                continue
            *old, there = row
            if there:
                raise AlreadyExists("there is a ticket of this id", reason="TICKET_EXISTS")
            self._forget(*old)

    def _claim(self, order: Order) -> None:
        size = len(order.request)
        self._wrote("insert or ignore into tenants values (?, 0, 0, 0, null)", order.tenant)
        claimed = self._wrote(
            "update tenants set tickets = tickets + 1, open = open + 1, size = size + ?"
            " where tenant = ? and open < ? and size + ? <= ?",
            size, order.tenant, self._quota.open, size, self._quota.size,
        )  # fmt: skip
        if claimed:
            return
        count, held = self._row("select open, size from tenants where tenant = ?", order.tenant) or (0, 0)
        if count >= self._quota.open:
            raise ResourceExhausted(
                f"{count} tickets are not over, of {self._quota.open} that the tenant may have",
                reason="LOT_FULL",
                metadata={"open": str(count), "max_open": str(self._quota.open)},
            )
        raise self._too_large(held, size)

    def _too_large(self, held: int, more: int) -> ResourceExhausted:
        return ResourceExhausted(
            f"{held} bytes are kept, of {self._quota.size} that the tenant may have, and {more} do not fit any more",
            reason="LOT_FULL",
            metadata={"bytes": str(held), "max_bytes": str(self._quota.size)},
        )

    def _chosen(self, most: int) -> Sequence[Candidate]:
        running = self.connection.execute(
            f"select tenant, count(*) from tickets indexed by tickets_leased where lease > ? and state = {RUNNING}"
            " group by tenant",
            (self._now,),
        )
        lapsed: dict[str, list[Candidate]] = {}
        for tenant, *candidate in self.connection.execute(
            f"select tenant, rank, id, ref from tickets where lease <= ? and {_IN_TIME}", (self._now, self._now)
        ):
            lapsed.setdefault(tenant, []).append(Candidate(*candidate))

        def waiting(tenant: str) -> Sequence[Candidate]:
            rows = self.connection.execute(
                f"select rank, id, ref from tickets where tenant = ? and state = {WAITING} and {_IN_TIME}"
                " order by rank, id limit ?",
                (tenant, self._now, most),
            )
            return [Candidate(*row) for row in rows.fetchall()]

        heads = self.connection.execute("select head, tenant from tenants where head is not null order by head")
        with closing(heads):
            return list(islice(turns(dict(running.fetchall()), lapsed, _heads(heads), waiting), most))

    def _keep(self, lease: Lease, events: Sequence[bytes], most: int | None = None) -> tuple[int, int, int]:
        """Keeps events where the tenant has room; the ticket's ref and version, and how many there are."""
        size = sum(map(len, events))
        row = self._row(
            f"update tickets set events = events + ?, size = size + ?, change = ? where {_HELD}"
            " returning ref, version, events",
            len(events), size, self._change(), *_key(lease),
        )  # fmt: skip
        if row is None:
            raise LeaseLost
        ref, version, after = row
        if events:
            first = place(ref, after - len(events) + 1)
            self.connection.executemany("insert into events values (?, ?)", enumerate(events, first))
        if not self._wrote(
            "update tenants set size = size + ? where tenant = ? and size + ? <= ifnull(?, size + ?)",
            size, lease.tenant, size, most, size,
        ):  # fmt: skip
            (held,) = self._row("select size from tenants where tenant = ?", lease.tenant) or (0,)
            raise self._too_large(held, size)
        return ref, version, after

    def _end(self, ref: int, outcome: Outcome) -> Ticket:
        """The caller sees to the tenant's head."""
        ended = self._changed(
            "state = ?, code = ?, status = ?, ended = ?, expires = ? + keep, lease = null,"
            " due = case when url is null then null else ? end",
            (NUMBERS[outcome.state], outcome.code, outcome.status, self._now, self._now, self._now),
            "ref = ?",
            (ref,),
        )
        self._wrote("update tenants set open = open - 1 where tenant = ?", ended.order.tenant)
        return ended

    def _forget(self, ref: int, tenant: str, events: int, size: int) -> None:
        self._empty(ref, events)
        self._wrote("delete from requests where ref = ?", ref)
        self._wrote("delete from tickets where ref = ?", ref)
        self._wrote("update tenants set tickets = tickets - 1, size = size - ? where tenant = ?", size, tenant)
        self._wrote("delete from tenants where tenant = ? and tickets = 0", tenant)

    def _empty(self, ref: int, events: int) -> None:
        """Of what is large."""
        self._wrote("delete from events where place between ? and ?", place(ref, 1), place(ref, events))
        self._wrote("update requests set body = x'' where ref = ?", ref)

    def _head(self, tenant: str) -> None:
        """Notes the first of a tenant's tickets that wait."""
        self._wrote(
            f"update tenants set head = (select min(rank) from tickets where tenant = ? and state = {WAITING})"
            " where tenant = ?",
            tenant, tenant,
        )  # fmt: skip

    def _changed(
        self, what: str, values: Sequence[Any], where: str, key: Sequence[Any], columns: str = COLUMNS
    ) -> Ticket:
        """Changes one ticket. Errors: LeaseLost where there is none of these."""
        row = self._row(
            f"update tickets set {what}, version = version + 1, change = ? where {where} returning {columns}",
            *values, self._change(), *key,
        )  # fmt: skip
        if row is None:
            raise LeaseLost
        changed = ticket(row)
        self.changes.append(Change(changed.order.tenant, changed.order.id, changed.version, changed.events))
        return changed

    def _change(self) -> int:
        """The number of this transaction among those that changed something."""
        self._next = self._next or self.counter() + 1
        return self._next

    def _row(self, sql: str, *values: Any) -> Any:
        """The only row, or None."""
        rows = self.connection.execute(sql, values).fetchall()
        return rows[0] if rows else None

    def _wrote(self, sql: str, *values: Any) -> bool:
        """Whether it changed anything."""
        return self.connection.execute(sql, values).rowcount > 0


def _key(lease: Lease) -> tuple[str, str, int]:
    return lease.tenant, lease.ticket, lease.attempt


def _heads(rows: sqlite3.Cursor) -> Iterator[Head]:
    return (Head(*row) for row in rows)
