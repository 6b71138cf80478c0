"""Connections that only read."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psycopg

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

MOST = 4


class Readers:
    """At most four connections, made when they are needed and kept; a lost one costs its question a second try."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._places = asyncio.Semaphore(MOST)
        self._idle: list[Connection] = []
        self._asking: set[asyncio.Task[Sequence[Row]]] = set()

    async def ask(self, statement: str, values: Mapping[str, object]) -> Sequence[Row]:
        """The rows of the answer; none where a text could not be in the database. Raises Unavailable.

        A question goes on when its asker is cancelled: stopping it would take longer, and cost the connection.
        """
        if any(isinstance(value, str) and "\0" in value for value in values.values()):
            return ()
        asking = asyncio.create_task(self._asked(statement, values))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        try:
            return await asyncio.shield(asking)
        except FAILURES as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        await asyncio.gather(*self._asking, return_exceptions=True)
        while self._idle:
            await self._idle.pop().close()

    async def _asked(self, statement: str, values: Mapping[str, object]) -> Sequence[Row]:
        async with asyncio.timeout(PATIENCE_S):
            await self._places.acquire()
        try:
            if self._idle:
                with suppress(psycopg.OperationalError):
                    return await self._answered(self._idle.pop(), statement, values)
            return await self._answered(await connected(self._location), statement, values)
        finally:
            self._places.release()

    async def _answered(self, connection: Connection, statement: str, values: Mapping[str, object]) -> Sequence[Row]:
        try:
            with bounded(connection):
                cursor = await connection.execute(statement.encode(), values, binary=True)
                rows = await cursor.fetchall()
        except BaseException:
            await connection.close()
            raise
        self._idle.append(connection)
        return rows
