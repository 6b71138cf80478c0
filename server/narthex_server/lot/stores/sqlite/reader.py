"""Threads that only read, beside the one that writes."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from narthex_server.errors import NarthexError
from narthex_server.lot.stores import refusals
from narthex_server.lot.stores.sqlite.file import TicketFile, passing
from narthex_server.worker import in_thread

T = TypeVar("T")

READERS = 2


@dataclass(frozen=True, slots=True)
class _Opened:
    connection: sqlite3.Connection
    identity: tuple[int, int]


class Readers:
    """Each reads in a transaction of its own, of what was committed when it began."""

    def __init__(self, file: TicketFile) -> None:
        self._file = file
        self._mine = threading.local()
        self._threads = ThreadPoolExecutor(READERS, "narthex-tickets-reader")
        self._closed = False
        self._open: set[sqlite3.Connection] = set()

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Errors: those of the work; Unavailable where the database fails."""
        if self._closed:
            raise refusals.closed()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, work)

    async def close(self) -> None:
        self._closed = True
        await in_thread(self._threads.shutdown)
        for connection in list(self._open):
            self._leave(connection)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._ready()
        try:
            connection.execute("begin")
            try:
                return work(connection)
            finally:
                connection.execute("commit")
        except sqlite3.Error as error:
            if not passing(error):
                self._leave(connection)
            raise self._file.failure(error) from error

    def _ready(self) -> sqlite3.Connection:
        """This thread's connection to what is at the path now."""
        mine: _Opened | None = getattr(self._mine, "opened", None)
        try:
            identity = self._file.identity()
        except NarthexError:
            if mine is not None:
                self._leave(mine.connection)
            raise
        if mine is not None and mine.connection in self._open and mine.identity == identity:
            return mine.connection
        if mine is not None:
            self._leave(mine.connection)
        self._mine.opened = made = _Opened(*self._file.open())
        made.connection.execute("pragma query_only = on")
        self._open.add(made.connection)
        return made.connection

    def _leave(self, connection: sqlite3.Connection) -> None:
        self._open.discard(connection)
        with suppress(sqlite3.Error):
            connection.close()
