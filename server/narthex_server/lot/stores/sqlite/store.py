"""The store of tickets in a file of SQLite."""

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

from narthex_server.lot.stores.feed import Feed
from narthex_server.lot.stores.sqlite.file import PATIENCE_SECONDS, TicketFile
from narthex_server.lot.stores.sqlite.reader import Readers
from narthex_server.lot.stores.sqlite.rows import COLUMNS, NUMBERS, REQUEST, ticket
from narthex_server.lot.stores.sqlite.schema import WAITING, place
from narthex_server.lot.stores.sqlite.writer import Writer
from narthex_server.lot.stores.store import Lease
from narthex_server.lot.ticket import Change, Holding, Order, Outcome, Quota, State, Ticket


class SqliteTickets:
    """A TicketStore in the file at `path`, which only its owner may read; several servers of one machine may share it.

    `clock` is in seconds since 1970, and of all of them the same; `patience`: seconds that a write waits for another
    process that writes. Memory does not grow with what is parked.
    """

    def __init__(
        self,
        path: Path,
        quota: Quota,
        clock: Callable[[], float] = time.time,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Opens the file, and makes it where there is none.

        Errors: Unavailable; FailedPrecondition (reason TICKET_STORE_VERSION) where it is of a later version.
        """
        file = TicketFile(path, patience)
        file.prepare()
        self._clock = clock
        self._feed = Feed()
        self._writer = Writer(file, quota, clock, self._feed)
        self._readers = Readers(file)

    async def add(self, order: Order, lease: float | None = None) -> tuple[Ticket, bool]:
        return await self._writer.do(lambda book: book.add(order, lease))

    async def take(self, most: int, lease: float) -> Sequence[Ticket]:
        return await self._writer.do(lambda book: book.take(most, lease))

    async def renew(self, leases: Collection[Lease], lease: float) -> Collection[Lease]:
        return await self._writer.do(lambda book: book.renew(leases, lease), lasting=False)

    async def append(self, lease: Lease, events: Sequence[bytes]) -> int:
        return await self._writer.do(lambda book: book.append(lease, events), lasting=False)

    async def move(self, lease: Lease, state: State) -> Ticket:
        return await self._writer.do(lambda book: book.move(lease, state))

    async def finish(self, lease: Lease, outcome: Outcome, events: Sequence[bytes] = ()) -> Ticket:
        return await self._writer.do(lambda book: book.finish(lease, outcome, events))

    async def release(self, lease: Lease) -> None:
        await self._writer.do(lambda book: book.release(lease))

    async def cancel(self, tenant: str, ticket: str) -> Ticket | None:
        return await self._writer.do(lambda book: book.cancel(tenant, ticket))

    async def get(self, tenant: str, ticket: str) -> Ticket | None:
        now = self._clock()
        return await self._readers.do(lambda connection: _found(connection, tenant, ticket, now))

    async def ahead(self, tenant: str, ticket: str) -> int:
        return await self._readers.do(lambda connection: _ahead(connection, tenant, ticket))

    async def list(
        self, tenant: str, states: Collection[State], before: tuple[float, str] | None, most: int
    ) -> Sequence[Ticket]:
        now = self._clock()
        return await self._readers.do(lambda connection: _listed(connection, tenant, states, before, most, now))

    async def events(self, tenant: str, ticket: str, after: int, most_bytes: int) -> Sequence[bytes]:
        now = self._clock()
        return await self._readers.do(lambda connection: _events(connection, tenant, ticket, after, most_bytes, now))

    async def holding(self, tenant: str | None) -> Holding:
        now = self._clock()
        return await self._readers.do(lambda connection: _holding(connection, tenant, now))

    async def sweep(self) -> Sequence[Ticket]:
        while await self._writer.do(lambda book: book.forget(), lasting=False):
            pass
        while await self._writer.do(lambda book: book.shrink(), lasting=False):
            pass
        return await self._writer.do(lambda book: book.overdue())

    def changes(self) -> AsyncIterator[Change]:
        self._writer.attach()
        return self._feed.subscribe()

    async def owed(self, most: int) -> Sequence[Ticket]:
        return await self._writer.do(lambda book: book.owed(most), lasting=False)

    async def told(self, tenant: str, ticket: str, again: float | None) -> None:
        await self._writer.do(lambda book: book.told(tenant, ticket, again))

    async def close(self) -> None:
        await self._readers.close()
        await self._writer.close()
        self._feed.close()


def _found(connection: sqlite3.Connection, tenant: str, name: str, now: float) -> Ticket | None:
    row = connection.execute(
        f"select {COLUMNS}, {REQUEST} from tickets where tenant = ? and id = ? and (expires is null or expires > ?)",
        (tenant, name, now),
    ).fetchone()
    return None if row is None else ticket(row)


def _ahead(connection: sqlite3.Connection, tenant: str, name: str) -> int:
    row = connection.execute(
        f"select rank from tickets where tenant = ? and id = ? and state = {WAITING}", (tenant, name)
    ).fetchone()
    if row is None:
        return 0
    (rank,) = row
    (own,) = connection.execute(
        f"select count(*) from tickets where tenant = ? and state = {WAITING} and (rank, id) < (?, ?)",
        (tenant, rank, name),
    ).fetchone()
    counted = (
        f"select count(*) as number from (select 1 from tickets where tenant = tenants.tenant and state = {WAITING}"
        " and (rank, id) < (?, ?) limit ?)"
    )
    (others,) = connection.execute(
        f"select ifnull(sum(({counted})), 0) from tenants where head <= ? and tenant <> ?",
        (rank, name, own + 1, rank, tenant),
    ).fetchone()
    return int(own + others)


def _listed(
    connection: sqlite3.Connection,
    tenant: str,
    states: Collection[State],
    before: tuple[float, str] | None,
    most: int,
    now: float,
) -> Sequence[Ticket]:
    numbers = ", ".join(str(NUMBERS[state]) for state in states or State)
    where, values = ("", ()) if before is None else (" and (submitted, id) < (?, ?)", before)
    rows = connection.execute(
        f"select {COLUMNS} from tickets where tenant = ? and state in ({numbers})"
        f" and (expires is null or expires > ?){where} order by submitted desc, id desc limit ?",
        (tenant, now, *values, most),
    )
    return [ticket(row) for row in rows]


def _events(
    connection: sqlite3.Connection, tenant: str, name: str, after: int, most_bytes: int, now: float
) -> Sequence[bytes]:
    row = connection.execute(
        "select ref, events from tickets where tenant = ? and id = ? and (expires is null or expires > ?)",
        (tenant, name, now),
    ).fetchone()
    if row is None or after >= row[1]:
        return []
    ref, last = row
    given: list[bytes] = []
    for (body,) in connection.execute(
        "select body from events where place between ? and ? order by place", (place(ref, after + 1), place(ref, last))
    ):
        most_bytes -= len(body)
        if given and most_bytes < 0:
            break
        given.append(body)
    return given


def _holding(connection: sqlite3.Connection, tenant: str | None, now: float) -> Holding:
    own, values = ("1", ()) if tenant is None else ("tenant = ?", (tenant,))
    counts = f"select ifnull(sum(open), 0), ifnull(sum(size), 0) from tenants where {own}"
    count, size = connection.execute(counts, values).fetchone()
    (parked,) = connection.execute(
        f"select count(*) from tickets where {own} and expires > ?", (*values, now)
    ).fetchone()
    return Holding(count, parked, size)
