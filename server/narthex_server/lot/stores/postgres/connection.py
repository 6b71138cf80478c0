"""A connection that answers within a bounded time or is broken."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from narthex_server.errors import Unavailable
from narthex_server.lot.stores.postgres.location import Location
from narthex_server.lot.stores.refusals import UNUSABLE

Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]

CONNECT_S = 5
PATIENCE_S = 10.0
FAILURES = (psycopg.Error, OSError, TimeoutError)

# The server gives up just before this side does; a transaction whose client is gone holds its locks no longer.
_SETTINGS = """
SELECT set_config('search_path', %s, false), set_config('statement_timeout', '8s', false),
    set_config('idle_in_transaction_session_timeout', '8s', false)
"""


async def connected(location: Location) -> Connection:
    """Raises FAILURES."""
    connection = await psycopg.AsyncConnection.connect(
        location.url,
        autocommit=True,
        connect_timeout=CONNECT_S,
        application_name="narthex",
        client_encoding="utf8",
        prepare_threshold=0,
    )
    try:
        with bounded(connection):
            await connection.execute(_SETTINGS, (location.schema,))
    except BaseException:
        await connection.close()
        raise
    return connection


@contextmanager
def bounded(connection: Connection, seconds: float = PATIENCE_S) -> Iterator[None]:
    """What waits for the database within fails when the time is over, as if the network had broken.

    To cancel the waiting task instead would take longer: the client asks the database to stop first, and waits for it.
    """
    timer = asyncio.get_running_loop().call_later(seconds, cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def cut(connection: Connection) -> None:
    """Breaks it at once, for both sides."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as end:
        end.shutdown(socket.SHUT_RDWR)


def unavailable(error: BaseException) -> Unavailable:
    """What a caller is told; the cause is for the log."""
    failure = Unavailable("the database of tickets cannot be used now", reason=UNUSABLE)
    failure.__cause__ = error
    return failure
