"""The one connection that writes."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

import psycopg
from psycopg import OperationalError
from psycopg.errors import DeadlockDetected

from narthex_server.errors import Unavailable
from narthex_server.lot.stores.postgres.connection import (
    FAILURES,
    PATIENCE_S,
    Connection,
    Row,
    bounded,
    connected,
    unavailable,
)
from narthex_server.lot.stores.postgres.location import Location
from narthex_server.lot.stores.refusals import UNUSABLE

MOST = 200
OF_ONE = (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError, DeadlockDetected)
"""Failures of one statement, or of what it met; the others of its transaction may well pass without it."""

_TENANTS = "INSERT INTO tenants (tenant) SELECT unnest(%(tenants)s::text[]) ON CONFLICT DO NOTHING"
_LOCK = "SELECT FROM tenants WHERE tenant = ANY(%(tenants)s) ORDER BY tenant FOR NO KEY UPDATE"
_SIGN = """
INSERT INTO writers (id, number, seen)
SELECT %(writer)s, %(number)s, clock() WHERE pg_current_xact_id_if_assigned() IS NOT NULL
ON CONFLICT (id) DO UPDATE SET number = excluded.number, seen = excluded.seen
RETURNING number
"""
"""Marks the transaction as this writer's n-th, unless it changed nothing."""

_SIGNED = """
INSERT INTO writers (id, number, seen) VALUES (%(writer)s, 0, clock())
ON CONFLICT (id) DO UPDATE SET seen = excluded.seen RETURNING number
"""
"""Which transaction was the writer's last; waits for the end of one that is not over."""


@dataclass(frozen=True, slots=True)
class Write:
    """Statements that change something of these tenants' tickets; where none is named, they pass what others hold."""

    statements: Sequence[str]
    values: Mapping[str, object]
    tenants: Sequence[str] = ()


class Writer:
    """Commits together what is asked for while the commit before is under way.

    A transaction first locks the tenants that it changes, in order, so that servers wait for one another and never in a
    circle: what passes locked rows comes last in it. When the connection breaks within a commit, the database is asked
    what became of it: nothing is done twice, and no failure is reported that was none, unless the database stays away.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._name, self._number = uuid4().hex, 0  # as which it signs its transactions, and how many there were
        self._connection: Connection | None = None
        self._waiting: list[tuple[Write, asyncio.Future[Sequence[Row]]]] = []
        self._working: asyncio.Task[None] | None = None

    async def do(self, write: Write) -> Sequence[Row]:
        """The rows that its last statement returned, once they are safe. Raises Unavailable."""
        done: asyncio.Future[Sequence[Row]] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await done

    async def close(self) -> None:
        if self._working is not None:
            await self._working
        await self._drop()

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            if wanted := [(write, done) for write, done in batch if not done.done()]:
                await self._settle(wanted)

    async def _settle(self, batch: Sequence[tuple[Write, "asyncio.Future[Sequence[Row]]"]]) -> None:
        """Gives each its answer; where the database refuses a batch, each is tried for itself."""
        ordered = sorted(batch, key=lambda one: not one[0].tenants)
        try:
            answers = await self._committed([write for write, _ in ordered])
        except Exception as error:
            if len(ordered) > 1 and (isinstance(error, OF_ONE) or not isinstance(error, (*FAILURES, Unavailable))):
                for one in ordered:
                    await self._settle([one])
                return
            for _, done in ordered:
                if not done.done():
                    done.set_exception(unavailable(error) if isinstance(error, FAILURES) else error)
        else:
            for (_, done), answer in zip(ordered, answers, strict=True):
                if not done.done():
                    done.set_result(answer)

    async def _committed(self, writes: Sequence[Write]) -> Sequence[Sequence[Row]]:
        """A second try, on a new connection, where the first changed nothing because the connection was lost."""
        kept = self._connection is not None
        try:
            return await self._transaction(writes)
        except OperationalError as error:
            if not kept or not lost(error):
                raise
        return await self._transaction(writes)

    async def _transaction(self, writes: Sequence[Write]) -> Sequence[Sequence[Row]]:
        connection = self._connection = self._connection or await connected(self._location)
        self._number += 1
        try:
            with bounded(connection):
                signed, answers = await self._written(connection, writes)
        except BaseException:
            await self._drop()
            raise
        try:
            with bounded(connection):
                await connection.execute(b"COMMIT", prepare=False)
        except FAILURES as error:
            await self._drop()
            if signed and not await self._happened():
                raise OperationalError("the transaction was not committed") from error
        return answers

    async def _written(self, connection: Connection, writes: Sequence[Write]) -> tuple[bool, Sequence[Sequence[Row]]]:
        """Does it all in a transaction that is left open: whether that changes anything, and what each returned."""
        tenants = sorted({tenant for write in writes for tenant in write.tenants})
        cursors = []
        async with connection.pipeline():
            await connection.execute(b"BEGIN", prepare=False)
            if tenants:
                await connection.execute(_TENANTS.encode(), {"tenants": tenants})
                await connection.execute(_LOCK.encode(), {"tenants": tenants})
            for write in writes:
                for statement in write.statements:
                    cursor = await connection.execute(statement.encode(), write.values, binary=True)
                cursors.append(cursor)
            last = await connection.execute(_SIGN.encode(), {"writer": self._name, "number": self._number})
        signed = await last.fetchall()
        return bool(signed), [await cursor.fetchall() for cursor in cursors]

    async def _happened(self) -> bool:
        """Whether the last transaction was committed. Raises Unavailable where nobody says so in time.

        Its id would not tell: after a crash of the database, ids of what was not committed are given again.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with suppress(*FAILURES):
                        return await self._signed() == self._number
                    await asyncio.sleep(0.1)
        text = "the database of tickets was lost while it kept this: whether it did is not known"
        raise Unavailable(text, reason=UNUSABLE)

    async def _signed(self) -> int:
        connection = await connected(self._location)
        try:
            with bounded(connection):
                cursor = await connection.execute(_SIGNED.encode(), {"writer": self._name})
                [[number]] = await cursor.fetchall()
                return int(number)
        finally:
            await connection.close()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, so that the database says nothing about the statement."""
    return isinstance(error, OperationalError) and (error.sqlstate is None or error.sqlstate.startswith(("57P", "08")))
