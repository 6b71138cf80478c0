"""The store of tickets in PostgreSQL."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import NoReturn

from narthex_server.errors import AlreadyExists, InvalidRequest, NarthexError, ResourceExhausted, Unavailable
from narthex_server.lot.stores.postgres import statements
from narthex_server.lot.stores.postgres.connection import FAILURES, REASON, Row, bounded, connected, unavailable
from narthex_server.lot.stores.postgres.location import Location
from narthex_server.lot.stores.postgres.news import News
from narthex_server.lot.stores.postgres.readers import Readers
from narthex_server.lot.stores.postgres.rows import ticket, values
from narthex_server.lot.stores.postgres.schema import migrate
from narthex_server.lot.stores.postgres.writer import Write, Writer
from narthex_server.lot.stores.store import TELLING_SECONDS, Lease, LeaseLost
from narthex_server.lot.ticket import Change, Holding, Order, Outcome, Quota, State, Ticket

logger = logging.getLogger(__name__)

SPARE = 16
SWEPT, SWEEPS = 1000, 20
PAGE = 4096
WAKING_S = 1.0


class PostgresTickets:
    """A TicketStore in a schema of a PostgreSQL database, which servers share; times are by the database's clock.

    Nothing is connected before the first call. What is there is brought up to date then, and before anything is read
    its changes are listened to: whoever reads a ticket misses nothing of it.
    """

    def __init__(self, location: Location, quota: Quota) -> None:
        self._location = location
        self._quota = quota
        self._readers = Readers(location)
        self._writer = Writer(location)
        self._news = News(location)
        self._opening: asyncio.Task[None] | None = None  # one try for all who wait for it
        self._opened = self._closed = False
        self._waking: asyncio.Task[None] | None = None

    async def add(self, order: Order, lease: float | None = None) -> tuple[Ticket, bool]:
        columns = values(order)
        if any(isinstance(value, str) and "\0" in value for value in columns.values()):
            raise InvalidRequest("neither ids nor tenants nor webhooks of tickets may have NUL characters")
        state, attempt = (State.WAITING, 0) if lease is None else (State.RUNNING, 1)
        limits = {"most_open": self._quota.open, "most_size": self._quota.size}
        asked = {**columns, **limits, "lease": lease, "state": state.value, "attempt": attempt}
        rows = await self._write((statements.FORGET, statements.ADD), asked, [order.tenant])
        if not rows:
            await self._refuse(order)
        kept = ticket(rows[0])
        if kept.order.digest != order.digest:
            raise AlreadyExists("the idempotency key is that of another order", reason="KEY_REUSED")
        return kept, rows[0][-1]

    async def take(self, most: int, lease: float) -> Sequence[Ticket]:
        rows = await self._write((statements.TAKE,), {"most": most, "spare": SPARE, "lease": lease}, ())
        return [ticket(row) for row in sorted(rows, key=lambda row: (*row[-2:], row[1]))]

    async def renew(self, leases: Collection[Lease], lease: float) -> Collection[Lease]:
        tenants = [one.tenant for one in leases]
        tickets, attempts = [one.ticket for one in leases], [one.attempt for one in leases]
        asked = {"tenants": tenants, "tickets": tickets, "attempts": attempts, "lease": lease}
        return [Lease(*row) for row in await self._write((statements.RENEW,), asked, tenants)] if leases else ()

    async def append(self, lease: Lease, events: Sequence[bytes]) -> int:
        size = sum(map(len, events))
        asked = {"bodies": list(events), "size": size, "most_size": self._quota.size}
        [last, kept] = await self._held(statements.APPEND, lease, asked)
        if last is None:
            raise _large(kept, self._quota.size, size)
        return int(last)

    async def move(self, lease: Lease, state: State) -> Ticket:
        return ticket(await self._held(statements.MOVE, lease, {"state": state.value}))

    async def finish(self, lease: Lease, outcome: Outcome, events: Sequence[bytes] = ()) -> Ticket:
        ended = {"state": outcome.state.value, "code": outcome.code, "status": outcome.status}
        last = {"bodies": list(events), "size": sum(map(len, events))}
        return ticket(await self._held(statements.FINISH, lease, {**ended, **last}))

    async def release(self, lease: Lease) -> None:
        await self._held(statements.RELEASE, lease, {})

    async def cancel(self, tenant: str, ticket_id: str) -> Ticket | None:
        if "\0" in tenant + ticket_id:
            return None
        rows = await self._write((statements.CANCEL,), {"tenant": tenant, "ticket": ticket_id}, [tenant])
        return ticket(rows[0]) if rows else None

    async def get(self, tenant: str, ticket_id: str) -> Ticket | None:
        rows = await self._read(statements.GET, {"tenant": tenant, "ticket": ticket_id})
        return ticket(rows[0]) if rows else None

    async def ahead(self, tenant: str, ticket_id: str) -> int:
        rows = await self._read(statements.AHEAD, {"tenant": tenant, "ticket": ticket_id})
        return rows[0][0] if rows else 0

    async def list(
        self, tenant: str, states: Collection[State], before: tuple[float, str] | None, most: int
    ) -> Sequence[Ticket]:
        asked = {"tenant": tenant, "states": [state.value for state in states], "most": most}
        if before is None:
            rows = await self._read(statements.LIST_FIRST, asked)
        else:
            rows = await self._read(statements.LIST, {**asked, "submitted": before[0], "before": before[1]})
        return [ticket(row) for row in rows]

    async def events(self, tenant: str, ticket_id: str, after: int, most_bytes: int) -> Sequence[bytes]:
        asked = {"tenant": tenant, "ticket": ticket_id, "after": after, "most": most_bytes, "page": PAGE}
        return [body for [body] in await self._read(statements.EVENTS, asked)]

    async def holding(self, tenant: str | None) -> Holding:
        rows = await self._read(statements.HOLDING, {"tenant": tenant})
        return Holding(*rows[0]) if rows else Holding(0, 0, 0)

    async def sweep(self) -> Sequence[Ticket]:
        found = await self._read(statements.SWEEPABLE, {})
        tenants = [tenant for tenant, _ in found]
        ended: list[Ticket] = []
        for _ in range(min(SWEEPS, math.ceil(sum(count for _, count in found) / SWEPT))):
            ended += map(ticket, await self._write((statements.SWEEP,), {"tenants": tenants, "most": SWEPT}, tenants))
        return ended

    def changes(self) -> AsyncIterator[Change]:
        if not self._opened and self._waking is None:
            self._waking = asyncio.create_task(self._wake())
        return self._news.follow()

    async def owed(self, most: int) -> Sequence[Ticket]:
        rows = await self._write((statements.OWED,), {"most": most, "telling": TELLING_SECONDS}, ())
        return [ticket(row) for row in sorted(rows, key=lambda row: (*row[-2:], row[1]))]

    async def told(self, tenant: str, ticket_id: str, again: float | None) -> None:
        await self._write((statements.TOLD,), {"tenant": tenant, "ticket": ticket_id, "again": again}, [tenant])

    async def close(self) -> None:
        self._closed = True
        for task in (self._waking, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._readers.close()
        await self._writer.close()
        await self._news.close()

    async def _held(self, statement: str, lease: Lease, asked: Mapping[str, object]) -> Row:
        """The one row about a ticket that is this holder's. Raises LeaseLost."""
        named = {"tenant": lease.tenant, "ticket": lease.ticket, "attempt": lease.attempt}
        rows = await self._write((statement,), {**named, **asked}, [lease.tenant])
        if not rows:
            raise LeaseLost
        return rows[0]

    async def _refuse(self, order: Order) -> NoReturn:
        """Says why an order was not taken: what it met may be gone already, which is as if it had come later."""
        rows = await self._read(statements.WHY, {"tenant": order.tenant, "ticket": order.id})
        taken, kept, size = rows[0] if rows else (False, 0, 0)
        if taken:
            raise AlreadyExists("there is a ticket of this id", reason="TICKET_EXISTS")
        if kept >= self._quota.open:
            raise _crowded(kept, self._quota.open)
        raise _large(size, self._quota.size, len(order.request))

    async def _read(self, statement: str, asked: Mapping[str, object]) -> Sequence[Row]:
        await self._open()
        return await self._readers.ask(statement, asked)

    async def _write(self, steps: Sequence[str], asked: Mapping[str, object], tenants: Sequence[str]) -> Sequence[Row]:
        await self._open()
        return await self._writer.do(Write(steps, asked, tenants))

    async def _wake(self) -> None:
        """Opens it for those who only listen, as soon as the database is there."""
        while True:
            try:
                return await self._open()
            except Unavailable:
                await asyncio.sleep(WAKING_S)
            except NarthexError as error:  # every other call says so, too
                logger.error("tickets cannot be kept: %s", error.message)
                return

    async def _open(self) -> None:
        """Raises Unavailable; FailedPrecondition where the database is not one for this version."""
        if self._closed:
            raise Unavailable("the store of tickets is closed", reason=REASON)
        if self._opened:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._prepare())
            self._opening.add_done_callback(self._prepared)
        try:
            await asyncio.shield(self._opening)
        except FAILURES as error:
            raise unavailable(error) from error

    def _prepared(self, opening: "asyncio.Task[None]") -> None:
        self._opening = None
        self._opened = not opening.cancelled() and opening.exception() is None

    async def _prepare(self) -> None:
        connection = await connected(self._location)
        try:
            with bounded(connection):
                await migrate(connection, self._location.schema)
        finally:
            await connection.close()
        await self._news.start()


def _crowded(kept: int, most: int) -> ResourceExhausted:
    text = f"{kept} tickets are not over, of {most} that the tenant may have"
    return ResourceExhausted(text, reason="LOT_FULL", metadata={"open": str(kept), "max_open": str(most)})


def _large(kept: int, most: int, more: int) -> ResourceExhausted:
    text = f"{kept} bytes are kept, of {most} that the tenant may have, and {more} do not fit any more"
    return ResourceExhausted(text, reason="LOT_FULL", metadata={"bytes": str(kept), "max_bytes": str(most)})
