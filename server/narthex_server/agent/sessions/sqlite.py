"""Sessions that outlive the process, in a file of SQLite."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from narthex_server.agent.sessions.session import Owner, Session, Summary, dumped, loaded
from narthex_server.errors import Unavailable
from narthex_server.sync.locks import UNMETERED, Locks

T = TypeVar("T")

_TABLE = """
CREATE TABLE IF NOT EXISTS sessions (
    tenant TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
    model TEXT NOT NULL, count INTEGER NOT NULL, size INTEGER NOT NULL, unfinished INTEGER NOT NULL,
    messages BLOB NOT NULL, PRIMARY KEY (tenant, name, id)
) WITHOUT ROWID
"""
_SUMMARY = "id, created, used, model, count, size, unfinished"
_OWN = "tenant = ? AND name = ? AND used > ?"


class SqliteSessions:
    """A SessionStore in the file at `path`, which only its owner may read; `seconds` as in memory."""

    def __init__(self, path: Path, seconds: float, clock: Callable[[], float], locks: Locks = UNMETERED) -> None:
        """Raises OSError where the file cannot be used."""
        self._path = path
        self._seconds = seconds
        self._clock = clock
        self._turn = locks.async_mutex("sessions_file")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            with closing(self._opened()) as opened:
                opened.execute("PRAGMA journal_mode = WAL")
                opened.execute(_TABLE)
                opened.execute("CREATE INDEX IF NOT EXISTS sessions_used ON sessions (used)")
        except sqlite3.Error as error:
            raise OSError(f"no file of SQLite: {error}") from error

    async def list(self, owner: Owner) -> Sequence[Summary]:
        def listed(opened: sqlite3.Connection) -> Sequence[Summary]:
            rows = opened.execute(f"SELECT {_SUMMARY} FROM sessions WHERE {_OWN}", (*self._own(owner),))
            return [_summary(row) for row in rows]

        return await self._do(listed)

    async def read(self, owner: Owner, session_id: str) -> Session | None:
        def found(opened: sqlite3.Connection) -> Session | None:
            asked = f"SELECT {_SUMMARY}, messages FROM sessions WHERE {_OWN} AND id = ?"
            row = opened.execute(asked, (*self._own(owner), session_id)).fetchone()
            return None if row is None else Session(_summary(row), loaded(row[-1]))

        return await self._do(found)

    async def write(self, owner: Owner, session_id: str, session: Session | None) -> None:
        def written(opened: sqlite3.Connection) -> None:
            key = (owner.tenant, owner.name, session_id)
            opened.execute("DELETE FROM sessions WHERE used <= ?", (self._clock() - self._seconds,))
            opened.execute("DELETE FROM sessions WHERE tenant = ? AND name = ? AND id = ?", key)
            if session is not None:
                one = session.summary
                facts = (one.created, one.used, one.model, one.count, one.size, one.unfinished)
                row = (*key, *facts, dumped(session.messages))
                opened.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

        await self._do(written)

    def _own(self, owner: Owner) -> tuple[str, str, float]:
        return owner.tenant, owner.name, self._clock() - self._seconds

    def _opened(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Does it in a thread and one transaction, one after the other; raises Unavailable where the file fails."""

        def done() -> T:
            try:
                with closing(self._opened()) as opened, opened:
                    return work(opened)
            except sqlite3.Error as error:
                raise Unavailable("the file of sessions cannot be used now", reason="SESSION_STORE") from error

        async with self._turn:
            return await asyncio.shield(asyncio.to_thread(done))


def _summary(row: tuple[str, float, float, str, int, int, int]) -> Summary:
    session_id, created, used, model, count, size, unfinished, *_ = row
    return Summary(session_id, created, used, model, count, size, bool(unfinished))
