"""What much work costs: no question looks through all tickets, and the file becomes small again."""

import asyncio
import gc
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from narthex_server.lot.stores.sqlite import store as reading
from narthex_server.lot.stores.sqlite.book import Book
from narthex_server.lot.stores.sqlite.file import TicketFile
from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.stores.store import Lease
from narthex_server.lot.ticket import Outcome, Quota, State, Webhook

from tests.unit.lot.stores.places import START, order

MUCH = Quota(open=100_000, size=1 << 30)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteTickets]:
    made = SqliteTickets(tmp_path / "tickets.db", MUCH, clock=lambda: START)
    yield made
    await made.close()


def test_no_statement_looks_through_a_table(tmp_path: Path) -> None:
    file = TicketFile(tmp_path / "tickets.db")
    file.prepare()
    connection, _ = file.open()
    said: list[str] = []
    connection.set_trace_callback(said.append)
    book = Book(connection, START, Quota())
    for number, tenant in enumerate(("a", "b", "c")):
        hook = Webhook("https://example.com")
        book.add(order(f"x{number}", tenant, key=f"k{number}", webhook=hook, deadline=START + 5), None)
        book.add(order(f"y{number}", tenant, webhook=hook, keep=0), 1.0)
    held = [Lease(one.order.tenant, one.order.id, one.attempt) for one in book.take(2, 5)]
    book.renew(held, 5)
    book.append(held[0], [b"a"])
    book.move(held[0], State.INPUT_REQUIRED)
    book.release(held[1])
    book.finish(held[0], Outcome(State.DONE), [b"b"])
    book.owed(5)
    book.told("a", "x0", None)
    book.cancel("a", "x0")
    book.cancel("a", "y0")
    book = Book(connection, START + 100, Quota())
    book.take(5, 5)
    book.overdue()
    book.forget()
    book.shrink()
    book.changed(0)
    book.count()
    reading._found(connection, "a", "x0", START)
    reading._ahead(connection, "b", "x1")
    reading._listed(connection, "a", {State.DONE}, (START, "x"), 5, START)
    reading._events(connection, "a", "x0", 0, 100, START)
    reading._holding(connection, "a", START)
    connection.set_trace_callback(None)
    asked = {one for one in said if one.startswith(("select", "update", "delete")) and "counter" not in one}
    assert len(asked) > 30
    for statement in asked:
        steps = [row[3] for row in connection.execute(f"explain query plan {statement}")]
        assert not [step for step in steps if "SCAN" in step and "(subquery" not in step], (statement, steps)
    connection.close()


async def test_a_file_of_which_much_is_gone_becomes_small_again(tmp_path: Path, store: SqliteTickets) -> None:
    names = [str(number) for number in range(100)]
    await asyncio.gather(*(store.add(order(name, request=b"r" * 100_000)) for name in names))
    for _ in range(2):
        await asyncio.gather(*(store.cancel("acme", name) for name in names))
    await store.sweep()
    await store.close()
    assert (tmp_path / "tickets.db").stat().st_size < 1_000_000


async def test_the_log_of_what_is_written_stays_small(tmp_path: Path, store: SqliteTickets) -> None:
    ticket, _ = await store.add(order("one"), 60)
    for _ in range(40):
        await store.append(Lease("acme", "one", ticket.attempt), [b"e" * 1_000_000])
    assert (tmp_path / "tickets.db-wal").stat().st_size < 17 << 20


async def test_what_is_parked_takes_no_memory(store: SqliteTickets) -> None:
    async def park(first: int) -> None:
        for at in range(first, first + 500, 100):
            await asyncio.gather(*(store.add(order(f"{n:05}", request=b"r" * 10_000)) for n in range(at, at + 100)))
        await store.add(order(f"last of {first}"))  # the writer has forgotten the others

    await park(0)
    tracemalloc.start()
    try:
        await park(500)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await park(1000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000


async def test_ten_thousand_tickets_that_wait(store: SqliteTickets, tmp_path: Path) -> None:
    """Taking looks at a few rows, however many wait."""

    async def added(n: int) -> None:
        await store.add(order(f"{n:05}", f"t{n % 2000}", submitted=START + n / 1000))

    for first in range(0, 10_000, 1000):
        await asyncio.gather(*(added(n) for n in range(first, first + 1000)))
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(sqlite3.connect(tmp_path / "tickets.db", isolation_level=None)) as connection:
        connection.set_progress_handler(step, 100)
        connection.execute("begin immediate")
        taken = Book(connection, START, MUCH).take(10, 60)
        connection.execute("rollback")
    assert [ticket.order.id for ticket in taken] == [f"{n:05}" for n in range(10)]
    assert steps < 100, "instructions of SQLite's machine, in hundreds"
