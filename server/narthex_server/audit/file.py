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
        """A new file, named after its first record."""
        path = folder / f"{part.before.seq + 1:012d}{SUFFIX}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # nobody else may read it, not for a moment
            made = cls(path, sqlite3.connect(path, isolation_level=None, timeout=1.0, check_same_thread=False))
            made._prepare()
            made._database.execute("begin immediate")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                made._database.execute(statement)
            made._database.execute(f"pragma application_id = {_APPLICATION}")
            made._database.execute(f"pragma user_version = {_VERSION}")
            made._database.execute(
                "insert into part values (1, ?, ?, ?, ?, ?, ?, ?)",
                (part.key_id, part.created, part.before.hash, part.head.seq, part.head.hash, part.closed, part.seal),
            )
            made._database.execute("commit")
        except (OSError, sqlite3.Error) as error:
            raise FileFailed(f"{path} cannot be made: {error}") from error
        return made

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        try:
            mode = "rw" if writable else "ro"
            uri = f"{path.absolute().as_uri()}?mode={mode}"
            made = cls(path, sqlite3.connect(uri, isolation_level=None, timeout=5.0, uri=True, check_same_thread=False))
            if made._database.execute("pragma application_id").fetchone() != (_APPLICATION,):
                raise FileFailed(f"{path} is no audit file")
            if made._database.execute("pragma user_version").fetchone() != (_VERSION,):
                raise FileFailed(f"{path} is an audit file of another version")
            if writable:
                made._prepare()
        except (OSError, sqlite3.Error) as error:
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

    def part(self) -> Part:
        try:
            row = self._database.execute(
                "select cast(key_id as text), cast(created as real), cast(before as blob), cast(seq as integer),"
                " cast(hash as blob), cast(closed as integer), cast(seal as blob) from part"
            ).fetchone()
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
            # cast, as whoever changes a file may put anything anywhere
            query = "select seq, cast(body as blob), cast(hash as blob) from records where seq > ? order by seq"
            with closing(self._database.execute(query, (after,))) as rows:
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
            self._database.execute("pragma locking_mode = exclusive")
            self._database.execute("begin exclusive")
        except sqlite3.Error as error:
            raise FileFailed(f"{folder} belongs to another process that writes there: {error}") from error

    def release(self) -> None:
        self._database.close()


def files(folder: Path) -> list[Path]:
    """The audit files of a folder, in the order of their records."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.name.removesuffix(SUFFIX).isdecimal())
