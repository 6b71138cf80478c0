"""The file itself: opened, checked, brought to this version; what went wrong with it in words."""

import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from narthex_server.errors import FailedPrecondition, Unavailable
from narthex_server.lot.stores.refusals import UNUSABLE
from narthex_server.lot.stores.sqlite.schema import APPLICATION, MIGRATIONS

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long a write waits for another process that writes."""

_WAL_BYTES = 16 << 20
"""To what the write-ahead log is cut back once its content is in the file."""

_TEXTS = {
    sqlite3.SQLITE_FULL: "the disk of the tickets is full: nothing of this was kept; try again when it has room",
    sqlite3.SQLITE_BUSY: "another process holds the tickets and does not let go; try again later",
    sqlite3.SQLITE_READONLY: "the file of the tickets cannot be written: its permissions, or its disk, have changed",
    sqlite3.SQLITE_CORRUPT: "the file of the tickets is damaged and has to be restored",
    sqlite3.SQLITE_NOTADB: "the file of the tickets is damaged and has to be restored",
    sqlite3.SQLITE_CANTOPEN: "the file of the tickets cannot be opened",
}
_PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
"""After these the connection is as good as before."""


class TicketFile:
    """Opens connections to the file at `path`, and notices when it is another file. For any thread."""

    def __init__(self, path: Path, patience: float = PATIENCE_SECONDS, migrations: Sequence[str] = MIGRATIONS) -> None:
        self._path = path
        self._patience = patience
        self._migrations = migrations
        self._noted = ""

    def prepare(self) -> None:
        """Makes the file where there is none, readable for its owner alone, and brings it to this version.

        Errors: Unavailable; FailedPrecondition (reason TICKET_STORE_VERSION) where it is of a later version, or no
        file of tickets.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # An existing file is not opened here: closing it again would drop the locks that SQLite holds on it.
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            if self._path.stat().st_mode & 0o077:
                self._path.chmod(0o600)
        except OSError as error:
            raise self.failure(error) from error
        try:
            with closing(self._connected()) as connection:
                self._check(connection)
                connection.execute("pragma auto_vacuum = incremental")  # only before the first table
                connection.execute("pragma journal_mode = wal")
                self._migrate(connection)
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def open(self) -> tuple[sqlite3.Connection, tuple[int, int]]:
        """A connection to the file as it is now, and which file that is. Errors: as `prepare`."""
        try:
            identity = self.identity()
            connection = self._connected()
            try:
                self._check(connection)
                connection.execute("pragma secure_delete = fast")
                connection.execute(f"pragma journal_size_limit = {_WAL_BYTES}")
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise self.failure(error) from error
        return connection, identity

    def identity(self) -> tuple[int, int]:
        """Which file is at the path. Errors: Unavailable where there is none."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError as error:
            self._note("it is gone")
            raise Unavailable(
                "the file of the tickets is gone: put it back, or start the server anew to begin another",
                reason=UNUSABLE,
            ) from error
        except OSError as error:
            raise self.failure(error) from error
        return found.st_dev, found.st_ino

    def failure(self, error: sqlite3.Error | OSError) -> Unavailable:
        """What to tell callers; the log has the rest."""
        self._note(str(error))
        text = _TEXTS.get(_code(error), "the file of the tickets cannot be used now")
        return Unavailable(text, reason=UNUSABLE)

    def works(self) -> None:
        """Something was written: what fails next is news."""
        if self._noted:
            log.info("the file of the tickets, %s, can be used again", self._path)
            self._noted = ""

    def _note(self, what: str) -> None:
        """Once in the log, however many find it out."""
        if what != self._noted:
            self._noted = what
            log.error("the file of the tickets, %s, cannot be used: %s", self._path, what)

    def _connected(self) -> sqlite3.Connection:
        """Waits for nobody but the file's lock; does not make a file."""
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        return sqlite3.connect(uri, timeout=self._patience, isolation_level=None, check_same_thread=False, uri=True)

    def _check(self, connection: sqlite3.Connection) -> int:
        looking = not connection.in_transaction
        if looking:
            connection.execute("begin")  # else another process may make the file between two looks
        try:
            (application,) = connection.execute("pragma application_id").fetchone()
            (version,) = connection.execute("pragma user_version").fetchone()
            empty = not connection.execute("select 1 from sqlite_master limit 1").fetchall()
        finally:
            if looking:
                rollback(connection)
        if application == 0 and version == 0 and empty:
            return 0
        if application != APPLICATION:
            self._note("it is a database of something else")
            raise FailedPrecondition("the file given for tickets is no file of tickets", reason=f"{UNUSABLE}_VERSION")
        if version > len(self._migrations):
            self._note(f"it is of version {version}")
            raise FailedPrecondition(
                f"the file of the tickets is of version {version}, and this server knows versions up to"
                f" {len(self._migrations)}: use the server that wrote it, or a later one",
                reason=f"{UNUSABLE}_VERSION",
            )
        return int(version)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """All in one transaction, so that a process that dies leaves the version before."""
        if self._check(connection) == len(self._migrations):
            return
        connection.execute("pragma synchronous = full")
        connection.execute("begin immediate")
        try:
            version = self._check(connection)  # another process may have been faster
            for script in self._migrations[version:]:
                for statement in filter(str.strip, script.split(";")):
                    connection.execute(statement)
            connection.execute(f"pragma application_id = {APPLICATION}")
            connection.execute(f"pragma user_version = {len(self._migrations)}")
            connection.execute("commit")
        except BaseException:
            rollback(connection)
            raise
        if version:
            log.info("the file of the tickets, %s, is now of version %d", self._path, len(self._migrations))


def rollback(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("rollback")


def passing(error: sqlite3.Error) -> bool:
    """Whether the connection can be used again."""
    return _code(error) in _PASSING


def _code(error: Exception) -> int:
    """SQLite's primary result code, 0 for others."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
