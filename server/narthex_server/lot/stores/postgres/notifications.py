"""What changes in the lot, by whichever server."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from narthex_server.lot.stores.feed import Feed
from narthex_server.lot.stores.postgres.connection import FAILURES, Connection, bounded, connected
from narthex_server.lot.stores.postgres.location import Location
from narthex_server.lot.stores.postgres.schema import channel
from narthex_server.lot.ticket import Change

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Between tries to connect again; the last one from then on."""

_MARK = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
_SINCE = "SELECT tenant, id, version, events FROM tickets WHERE changed >= %s::xid8"


class Notifications:
    """Listens on a connection of its own, which sleeps until there is something.

    Every change that was committed after `start` returned is told, also what happened while the connection was lost:
    tickets carry the transaction that changed them, and a mark is kept of one before which all has been told.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._feed = Feed()
        self._since = self._newer = ""  # a mark, and the one after it, up to which word may still be under way
        self._missed = False
        self._listening: asyncio.Task[None] | None = None

    def follow(self) -> AsyncIterator[Change]:
        """From now on."""
        return self._feed.subscribe()

    async def start(self) -> None:
        """Raises FAILURES."""
        self._listening = asyncio.create_task(self._listen(await self._connected()))

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
        self._feed.close()

    async def _listen(self, connection: Connection) -> None:
        while True:
            try:
                await self._hear(connection)
            except FAILURES as error:
                logger.warning("the database of tickets was lost: %s", type(error).__name__)
            finally:
                await connection.close()
            connection = await self._again()
            logger.info("the database of tickets is back")

    async def _hear(self, connection: Connection) -> None:
        """Until the connection is lost. Raises FAILURES."""
        loop = asyncio.get_running_loop()
        beat = loop.time() + HEARTBEAT_S
        while True:
            if loop.time() >= beat:
                with bounded(connection):
                    self._since, self._newer = self._newer, await _mark(connection)
                beat = loop.time() + HEARTBEAT_S
            connection.pgconn.consume_input()
            while (heard := connection.pgconn.notifies()) is not None:
                self._hearing(heard.extra)
            if self._missed:
                await self._look(connection)
            else:
                await _readable(connection, beat)

    async def _again(self) -> Connection:
        """A connection that listens again."""
        pauses = iter(PAUSES_S)
        while True:
            await asyncio.sleep(next(pauses, PAUSES_S[-1]))
            with suppress(*FAILURES):
                return await self._connected()

    async def _connected(self) -> Connection:
        """One that listens; tells what changed since the mark, where there is one. Raises FAILURES."""
        connection = await connected(self._location)
        connection.add_notify_handler(lambda heard: self._hearing(heard.payload.encode()))
        try:
            with bounded(connection):
                mark = await _mark(connection)
                await connection.execute(f"LISTEN {channel(self._location.schema)}".encode())
            if self._since:
                await self._look(connection)
            else:
                self._since = self._newer = mark
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _look(self, connection: Connection) -> None:
        """Tells what changed since the mark, some of it perhaps again."""
        self._missed = False
        with bounded(connection):
            mark = await _mark(connection)
            cursor = await connection.execute(_SINCE.encode(), (self._since,))
            self._feed.publish([Change(*row) for row in await cursor.fetchall()])
        self._since = self._newer = mark

    def _hearing(self, payload: bytes) -> None:
        """One notification; one that does not say what changed makes this side look."""
        try:
            tenant, ticket, version, events = json.loads(payload)
        except (ValueError, TypeError):
            self._missed = True
        else:
            self._feed.publish([Change(tenant, ticket, version, events)])


async def _mark(connection: Connection) -> str:
    """The oldest transaction that is not over; all before it have been told, or will be in a moment."""
    cursor = await connection.execute(_MARK.encode())
    [[mark]] = await cursor.fetchall()
    return str(mark)


async def _readable(connection: Connection, until: float) -> None:
    """Sleeps until the server says something, or the loop's clock says so; psycopg would look ten times a second."""
    loop = asyncio.get_running_loop()
    something = asyncio.Event()
    socket = connection.pgconn.socket
    loop.add_reader(socket, something.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await something.wait()
    finally:
        loop.remove_reader(socket)
