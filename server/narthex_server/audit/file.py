"""One file of the record: an SQLite database of records, and where its part of the chain begins and ends."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from narthex_server.audit.chain import Head

SUFFIX = ".audit"
_VERSION = 1
_APPLICATION = 0x6E617564
_SCHEMA = """
create table records (seq integer primary key, body blob not null, hash blob not null);
create table part (
    one integer primary key check (one = 1), key_id text not null, created real not null, before blob not null,
    seq integer not null, hash blob not null, closed integer not null, seal blob not null
);
"""

# Whoever changes a file may put anything anywhere, or nothing.
_PART = """
select ifnull(cast(key_id as text), ''), ifnull(cast(created as real), 0), ifnull(cast(before as blob), x''),
    ifnull(cast(seq as integer), 0), ifnull(cast(hash as blob), x''), ifnull(cast(closed as integer), 0),
    ifnull(cast(seal as blob), x'') from part
"""
_RECORDS = """
select cast(seq as integer), ifnull(cast(body as blob), x''), ifnull(cast(hash as blob), x'') from records
where seq > ? order by seq
"""


class FileFailed(Exception):
    """A file that cannot be read or written, and why; nothing of the last append is in it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a file says of itself: `before` is the head that it goes on from, `head` its last record's.

    `created` is in seconds since 1970; `closed` where another file goes on; `seal` is the chain's, over the head.
    """

    key_id: str
    created: float
    before: Head
    head: Head
    closed: bool
    seal: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it lies in a file."""

    seq: int
    body: bytes
    hash: bytes


class AuditFile:
    """A file that is written to, or looked at. All raise FileFailed."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database

    @classmethod
    def create(cls, folder: Path, part: Part) -> Self:
        """A new file, named after its first record; none is left where that fails."""
        path = folder / f"{part.before.seq + 1:012d}{SUFFIX}"
        try:
            # nobody else may read it, not for a moment
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise FileFailed(f"{path} cannot be made: {error.strerror}") from error
        try:
            made = cls(path, sqlite3.connect(path, isolation_level=None, timeout=1.0, check_same_thread=False))
        except sqlite3.Error as error:
            path.unlink(missing_ok=True)
            raise FileFailed(f"{path} cannot be made: {error}") from error
        try:
            made._prepare()
            made._begin(part)
        except sqlite3.Error as error:
            made.discard()
            raise FileFailed(f"{path} cannot be made: {error}") from error
        return made

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        """Reads see what was there at the first of them, whatever another process writes, unless it is writable."""
        uri = f"{path.absolute().as_uri()}?mode={'rw' if writable else 'ro'}"
        try:
            made = cls(path, sqlite3.connect(uri, isolation_level=None, timeout=5.0, uri=True, check_same_thread=False))
        except sqlite3.Error as error:
            raise FileFailed(f"{path} cannot be opened: {error}") from error
        try:
            if not writable:
                made._database.execute("begin")
            made._check()
            if writable:
                made._prepare()
        except FileFailed:
            made.close()
            raise
        except sqlite3.Error as error:
            made.close()
            raise FileFailed(f"{path} cannot be opened: {error}") from error
        return made

    @staticmethod
    def unfinished(path: Path) -> bool:
        """Whether a file has nothing in it yet, as when its making was cut short."""
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=5.0, uri=True)) as database:
                (tables,) = database.execute("select count(*) from sqlite_master").fetchone()
                return bool(tables == 0)
        except sqlite3.Error as error:
            raise FileFailed(f"{path} cannot be opened: {error}") from error

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()

    def discard(self) -> None:
        """Takes away a file that holds no record."""
        self.close()
        for name in (self.path.name, f"{self.path.name}-wal", f"{self.path.name}-shm"):
            with suppress(OSError):
                self.path.with_name(name).unlink(missing_ok=True)

    def part(self) -> Part:
        try:
            row = self._database.execute(_PART).fetchone()
        except sqlite3.Error as error:
            raise FileFailed(f"{self.path} cannot be read: {error}") from error
        if row is None:
            raise FileFailed(f"{self.path} does not say where it begins")
        key_id, created, before, seq, digest, closed, seal = row
        return Part(key_id, created, Head(self._first() - 1, before), Head(seq, digest), bool(closed), seal)

    def append(self, records: Sequence[Stored], part: Part) -> None:
        """Adds records and moves the head, both or none."""
        try:
            self._database.execute("begin immediate")
            try:
                rows = [(record.seq, record.body, record.hash) for record in records]
                self._database.executemany("insert into records values (?, ?, ?)", rows)
                self._database.execute(
                    "update part set seq = ?, hash = ?, closed = ?, seal = ?",
                    (part.head.seq, part.head.hash, part.closed, part.seal),
                )
                self._database.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise FileFailed(f"{self.path} cannot be written: {error}") from error

    def records(self, after: int = 0) -> Iterator[Stored]:
        """Those after a number, in order."""
        try:
            with closing(self._database.execute(_RECORDS, (after,))) as rows:
                for seq, body, digest in rows:
                    yield Stored(seq, body, digest)
        except sqlite3.Error as error:
            raise FileFailed(f"{self.path} cannot be read: {error}") from error

    def size(self) -> int:
        """Bytes of the file without what SQLite has not moved into it yet."""
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise FileFailed(f"{self.path} is gone: {error.strerror}") from error

    def _begin(self, part: Part) -> None:
        self._database.execute("begin immediate")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            self._database.execute(statement)
        self._database.execute(f"pragma application_id = {_APPLICATION}")
        self._database.execute(f"pragma user_version = {_VERSION}")
        self._database.execute(
            "insert into part values (1, ?, ?, ?, ?, ?, ?, ?)",
            (part.key_id, part.created, part.before.hash, part.head.seq, part.head.hash, part.closed, part.seal),
        )
        self._database.execute("commit")

    def _check(self) -> None:
        if self._database.execute("pragma application_id").fetchone() != (_APPLICATION,):
            raise FileFailed(f"{self.path} is no audit file")
        if self._database.execute("pragma user_version").fetchone() != (_VERSION,):
            raise FileFailed(f"{self.path} is an audit file of another version")

    def _prepare(self) -> None:
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = full")  # what is committed survives a power cut

    def _first(self) -> int:
        """The number of the first record, which is the file's name."""
        name = self.path.name.removesuffix(SUFFIX)
        if not name.isdecimal():
            raise FileFailed(f"{self.path} has lost its name, which is the number of its first record")
        return int(name)


class Lock:
    """Holds a folder for one writer, for as long as the process lives. Raises FileFailed where another has it."""

    def __init__(self, folder: Path) -> None:
        try:
            self._database = sqlite3.connect(
                folder / "lock", timeout=0.0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise FileFailed(f"{folder} cannot be written: {error}") from error
        try:
            self._database.execute("pragma locking_mode = exclusive")
            self._database.execute("begin exclusive")
        except sqlite3.Error as error:
            self._database.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise FileFailed(f"{folder} belongs to another process that writes there") from error
            raise FileFailed(f"{folder} cannot be written: {error}") from error

    def release(self) -> None:
        self._database.close()


def files(folder: Path) -> list[Path]:
    """The audit files of a folder, in the order of their records."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.name.removesuffix(SUFFIX).isdecimal())


def begun(folder: Path) -> list[Path]:
    """As `files`, without a last one whose making was cut short."""
    found = files(folder)
    if len(found) > 1:
        with suppress(FileFailed):
            return found[:-1] if AuditFile.unfinished(found[-1]) else found
    return found
