"""The one thread that writes, many operations in a transaction."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from narthex_server.errors import NarthexError
from narthex_server.lot.stores import refusals
from narthex_server.lot.stores.feed import Feed
from narthex_server.lot.stores.sqlite.book import Book
from narthex_server.lot.stores.sqlite.file import TicketFile, passing, rollback
from narthex_server.lot.ticket import Change, Quota
from narthex_server.worker import failure, in_thread

T = TypeVar("T")

GROUP = 256
"""Operations of one transaction, at most."""

LOOK_SECONDS = 0.2
"""How often an idle writer looks for what another process has changed."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """`lasting`: its answer survives a power cut, too."""

    work: Callable[[Book], Any]
    lasting: bool
    future: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class _Answer:
    operation: _Operation
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Written:
    """What came of operations, and what changed."""

    answers: Sequence[_Answer] = ()
    changes: Sequence[Change] = ()


class Writer:
    """Does operations in the order in which they come, and answers when they are committed; use from one event loop.

    One that fails takes no other along: each has its savepoint, and where the database itself fails, those that were
    together are tried apart. Changes, also those of other processes, go to `feed`.
    """

    def __init__(self, file: TicketFile, quota: Quota, clock: Callable[[], float], feed: Feed) -> None:
        """Errors: as TicketFile.open."""
        self._file = file
        self._quota = quota
        self._clock = clock
        self._feed = feed
        self._inbox: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        try:
            self._seen = self._book().counter()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._thread = threading.Thread(target=self._run, name="narthex-tickets", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Book], T], *, lasting: bool = True) -> T:
        """Errors: those of the work; Unavailable where the database fails."""
        if self._closed:
            raise refusals.closed()
        future: asyncio.Future[Any] = self.attach().create_future()
        self._inbox.put(_Operation(work, lasting, future))
        return cast(T, await future)

    def attach(self) -> asyncio.AbstractEventLoop:
        """Says that the running loop is the one that changes are for."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    async def close(self) -> None:
        """Does what has been asked for, and ends."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
        await in_thread(self._thread.join)

    def _run(self) -> None:
        while self._turn():
            pass
        self._leave()

    def _turn(self) -> bool:
        """Does what has been asked for; whether more may come."""
        group = self._next()
        operations = [one for one in group if one is not None and not one.future.cancelled()]
        try:
            self._answer(self._write(operations) if operations else self._look())
        except Exception as error:
            self._leave()
            told = failure("store of tickets", "the thread that writes failed", error)
            self._answer(_Written([_Answer(one, error=told) for one in operations]))
        return None not in group

    def _next(self) -> Sequence[_Operation | None]:
        """What has been asked for meanwhile; nothing where that takes long; None is the last."""
        group: list[_Operation | None] = []
        with suppress(queue.Empty):
            group.append(self._inbox.get(timeout=LOOK_SECONDS))
            while len(group) < GROUP:
                group.append(self._inbox.get_nowait())
        return group

    def _write(self, group: Sequence[_Operation]) -> _Written:
        try:
            book = self._begin(lasting=any(operation.lasting for operation in group))
        except (sqlite3.Error, NarthexError) as error:
            return self._refused(group, error)
        try:
            return self._committed(book, group)
        except sqlite3.Error as error:
            rollback(book.connection)
            if len(group) == 1:
                return self._refused(group, error)
            if not passing(error):
                self._leave()
        half = len(group) // 2
        first, second = self._write(group[:half]), self._write(group[half:])
        return _Written([*first.answers, *second.answers], [*first.changes, *second.changes])

    def _begin(self, lasting: bool) -> Book:
        book = self._book()
        book.connection.execute(f"pragma synchronous = {'full' if lasting else 'normal'}")
        book.connection.execute("begin immediate")
        return book

    def _committed(self, book: Book, group: Sequence[_Operation]) -> _Written:
        foreign = book.changed(self._seen) if self._feed.heard else []
        answers = [self._one(book, operation) for operation in group]
        seen = book.count()
        book.connection.execute("commit")
        self._seen = seen
        self._file.works()
        return _Written(answers, [*foreign, *book.changes])

    def _one(self, book: Book, operation: _Operation) -> _Answer:
        """Raises sqlite3.Error where the database fails."""
        before = len(book.changes)
        book.connection.execute("savepoint one")
        try:
            value = operation.work(book)
        except sqlite3.Error:
            raise
        except Exception as error:
            book.connection.execute("rollback to one")
            book.connection.execute("release one")
            del book.changes[before:]
            return _Answer(operation, error=error)
        book.connection.execute("release one")
        return _Answer(operation, value)

    def _refused(self, group: Sequence[_Operation], error: sqlite3.Error | NarthexError) -> _Written:
        told = self._failed(error)
        return _Written([_Answer(operation, error=told) for operation in group])

    def _failed(self, error: sqlite3.Error | NarthexError) -> NarthexError:
        if isinstance(error, NarthexError):
            return error
        if not passing(error):
            self._leave()
        return self._file.failure(error)

    def _look(self) -> _Written:
        """What other processes have changed."""
        try:
            book = self._book()
            upto = book.counter()
            changes = book.changed(self._seen) if self._feed.heard and upto > self._seen else []
        except (sqlite3.Error, NarthexError):
            return _Written()  # whoever asks for something next is told
        self._seen = upto
        return _Written(changes=changes)

    def _book(self) -> Book:
        """Of what is at the path now."""
        if self._connection is not None:
            try:
                same = self._file.identity() == self._identity
            except NarthexError:
                self._leave()
                raise
            if not same:
                self._leave()
        if self._connection is None:
            self._connection, self._identity = self._file.open()
        return Book(self._connection, self._clock(), self._quota)

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _answer(self, written: _Written) -> None:
        if self._loop is None or not (written.answers or written.changes):
            return
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, written)

    def _settle(self, written: _Written) -> None:
        self._feed.publish(written.changes)
        for answer in written.answers:
            future = answer.operation.future
            if future.done():
                continue
            if answer.error is not None:
                future.set_exception(answer.error)
            else:
                future.set_result(answer.value)
