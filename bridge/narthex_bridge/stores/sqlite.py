"""Sessions and events in an SQLite file of this process, on one thread of their own."""

import asyncio
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from narthex.settings import SettingsError

from narthex_bridge.stores.store import PAGE, Bounds, Page, StoreUnavailable

T = TypeVar("T")

_VERSION = 1
_SCHEMA = """
create table streams (session text, name text, note blob, last integer, ended integer, primary key (session, name))
    without rowid;
create table events (id integer primary key, session text, stream text, number integer, at real, message blob);
create index events_of_streams on events (session, stream, number);
create index events_in_order on events (session, id);
create table sessions (session text, name text, value blob, primary key (session, name)) without rowid;
create table touched (session text primary key, at real) without rowid;
"""


class SqliteFile:
    """One connection that only its own thread uses; the event loop never waits for the disk.

    It has the file to itself. Raises SettingsError where it cannot, or where it is no file of ours.
    """

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1, "narthex-sqlite")
        self._thread.submit(self._open, path).result()

    def _open(self, path: Path) -> None:
        try:
            database = sqlite3.connect(path, isolation_level=None, timeout=1.0, check_same_thread=False)
            database.execute("pragma locking_mode = exclusive")
            database.execute("pragma journal_mode = wal")
            database.execute("pragma synchronous = normal")  # survives a killed process; a power cut may lose the last
            database.execute("begin immediate")
            (version,) = database.execute("pragma user_version").fetchone()
            (tables,) = database.execute("select count(*) from sqlite_master").fetchone()
            if version == 0 and tables == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    database.execute(statement)
                database.execute(f"pragma user_version = {_VERSION}")
            elif version != _VERSION:
                raise SettingsError(f"events.path: {path} is a database of something else, or of another version")
            database.execute("commit")
        except sqlite3.Error as error:
            raise SettingsError(f"events.path: {path} cannot be used: {error}") from None
        self._database = database

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Does work on the thread, in one transaction. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def at_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Does work while the process starts, when there is nobody to wait."""
        return self._thread.submit(self._transact, work).result()

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self._database.execute("begin immediate")
            try:
                done = work(self._database)
            except BaseException:
                self._database.execute("rollback")
                raise
            self._database.execute("commit")
            return done
        except sqlite3.Error as error:
            raise StoreUnavailable(f"The event store cannot be used: {error}") from error

    def close(self) -> None:
        self._thread.submit(self._database.close).result()
        self._thread.shutdown()


class SqliteEvents:
    """EventStore in a file; how much each session has is also counted in memory, on the file's thread."""

    def __init__(self, file: SqliteFile, bounds: Bounds, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._bounds = bounds
        self._now = now
        self._sizes: OrderedDict[str, tuple[int, int]] = OrderedDict()  # events and bytes; least recently written first
        self._bytes = 0
        file.at_once(self._count)

    async def begin(self, session: str, stream: str, note: bytes) -> None:
        def work(database: sqlite3.Connection) -> None:
            if session in self._sizes:
                self._sizes.move_to_end(session)
            database.execute(
                "insert into streams values (?, ?, ?, 0, 0) on conflict do update set note = excluded.note",
                (session, stream, note),
            )

        await self._file.run(work)

    async def append(self, session: str, stream: str, first: int, messages: Sequence[bytes], ended: bool) -> None:
        def work(database: sqlite3.Connection) -> None:
            now, place = self._now(), (session, stream)
            self._expire(database, session, now)
            database.execute("insert or ignore into streams values (?, ?, x'', 0, 0)", place)
            chosen = "select last, ended from streams where session = ? and name = ?"
            last, over = database.execute(chosen, place).fetchone()
            if over:
                return
            self._resize(session, 0, 0)
            self._sizes.move_to_end(session)
            new = [(number, message) for number, message in enumerate(messages, first) if number > last]
            rows = [(session, stream, number, now, message) for number, message in new]
            database.executemany(
                "insert into events (session, stream, number, at, message) values (?, ?, ?, ?, ?)", rows
            )
            last = new[-1][0] if new else last
            database.execute(
                "update streams set last = ?, ended = ? where session = ? and name = ?", (last, ended, *place)
            )
            self._resize(session, len(new), sum(len(message) for _, message in new))
            while self._over(session):
                self._drop(database, session)
            while self._bytes > self._bounds.total_bytes:
                self._drop(database, next(other for other, size in self._sizes.items() if size[0]))
            if not self._sizes.get(session, (1, 0))[0]:
                del self._sizes[session]

        await self._counted(work)

    async def read(self, session: str, stream: str, after: int) -> Page | None:
        def work(database: sqlite3.Connection) -> Page | None:
            self._expire(database, session, self._now())
            chosen = "select note, last, ended from streams where session = ? and name = ?"
            found = database.execute(chosen, (session, stream)).fetchone()
            if found is None:
                return None
            events = database.execute(
                "select number, message from events where session = ? and stream = ? and number > ?"
                " order by number limit ?",
                (session, stream, after, PAGE),
            ).fetchall()
            return Page(found[0], events, found[1], bool(found[2]))

        return await self._counted(work)

    async def forget(self, session: str) -> None:
        def work(database: sqlite3.Connection) -> None:
            for table in ("events", "streams"):
                database.execute(f"delete from {table} where session = ?", (session,))
            self._bytes -= self._sizes.pop(session, (0, 0))[1]

        await self._counted(work)

    async def sweep(self) -> None:
        def work(database: sqlite3.Connection) -> None:
            now = self._now()
            for session in list(self._sizes):
                self._expire(database, session, now)

        await self._counted(work)

    async def close(self) -> None:
        self._file.close()

    async def _counted(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._file.run(work)
        except StoreUnavailable:
            await self._file.run(self._count)  # what was rolled back is not in the counts either
            raise

    def _count(self, database: sqlite3.Connection) -> None:
        self._sizes.clear()
        counted = "select session, count(*), sum(length(message)) from events group by session order by max(id)"
        self._sizes.update((session, (events, size)) for session, events, size in database.execute(counted))
        self._bytes = sum(size for _, size in self._sizes.values())

    def _over(self, session: str) -> bool:
        events, size = self._sizes.get(session, (0, 0))
        return events > self._bounds.events or size > self._bounds.session_bytes

    def _resize(self, session: str, events: int, size: int) -> None:
        before = self._sizes.get(session, (0, 0))
        self._sizes[session] = (before[0] + events, before[1] + size)
        self._bytes += size

    def _expire(self, database: sqlite3.Connection, session: str, now: float) -> None:
        old = "select count(*) from events where session = ? and at <= ?"
        (expired,) = database.execute(old, (session, now - self._bounds.age_s)).fetchone()
        for _ in range(expired):
            self._drop(database, session)

    def _drop(self, database: sqlite3.Connection, session: str) -> None:
        oldest = "select id, stream, length(message) from events where session = ? order by id limit 1"
        number, stream, size = database.execute(oldest, (session,)).fetchone()
        database.execute("delete from events where id = ?", (number,))
        database.execute(
            "delete from streams where session = ?1 and name = ?2 and ended"
            " and not exists (select 1 from events where session = ?1 and stream = ?2)",
            (session, stream),
        )
        self._resize(session, -1, -size)
        if not self._sizes[session][0]:
            del self._sizes[session]


class SqliteRecords:
    """SessionRecords in the same file; the process that has it open is the only one."""

    durable = True
    shared = False

    def __init__(self, file: SqliteFile, idle_s: float, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._idle_s = idle_s
        self._now = now

    async def save(self, session: str, values: Mapping[str, bytes]) -> None:
        def work(database: sqlite3.Connection) -> None:
            rows = [(session, name, value) for name, value in values.items()]
            database.executemany("insert or replace into sessions values (?, ?, ?)", rows)
            database.execute("insert or replace into touched values (?, ?)", (session, self._now()))

        await self._file.run(work)

    async def load(self, session: str) -> dict[str, bytes] | None:
        def work(database: sqlite3.Connection) -> dict[str, bytes] | None:
            used = "update touched set at = ?1 where session = ?2 and at > ?1 - ?3"
            if not database.execute(used, (self._now(), session, self._idle_s)).rowcount:
                return None
            return dict(database.execute("select name, value from sessions where session = ?", (session,)).fetchall())

        return await self._file.run(work)

    async def remove(self, session: str) -> None:
        def work(database: sqlite3.Connection) -> None:
            for table in ("sessions", "touched"):
                database.execute(f"delete from {table} where session = ?", (session,))

        await self._file.run(work)

    async def touch(self, sessions: Iterable[str]) -> None:
        def work(database: sqlite3.Connection) -> None:
            now = self._now()
            database.executemany("update touched set at = ? where session = ?", [(now, name) for name in sessions])
            database.execute("delete from touched where at <= ?", (now - self._idle_s,))
            gone = "where session not in (select session from touched)"
            database.execute(f"delete from sessions {gone}")
            # Streams that never ended; events leave by their age, and take theirs along.
            database.execute(f"delete from streams {gone} and session not in (select session from events)")

        await self._file.run(work)
