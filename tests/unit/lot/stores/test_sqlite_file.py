"""The file of tickets: who may read it, which version it is, and what happens when it fails."""

import asyncio
import logging
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from narthex_server.errors import FailedPrecondition, Unavailable
from narthex_server.lot.stores.sqlite.file import TicketFile
from narthex_server.lot.stores.sqlite.schema import MIGRATIONS
from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.stores.store import Lease
from narthex_server.lot.ticket import Holding, Outcome, Quota, State

from tests.unit.lot.stores import full_disk
from tests.unit.lot.stores.places import START, order


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lot" / "tickets.db"


def opened(path: Path) -> SqliteTickets:
    return SqliteTickets(path, Quota(), clock=lambda: START, patience=0.05)


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteTickets]:
    made = opened(path)
    yield made
    await made.close()


def test_nobody_else_may_read_it(path: Path, store: SqliteTickets) -> None:
    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
    assert set(modes) == {"tickets.db", "tickets.db-wal", "tickets.db-shm"}
    assert set(modes.values()) == {0o600}


async def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    await opened(path).close()
    path.chmod(0o644)
    await opened(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_closed_store_says_so(path: Path) -> None:
    store = opened(path)
    await store.close()
    for asked in (store.add(order("one")), store.get("acme", "one")):
        with pytest.raises(Unavailable, match="closed"):
            await asked
    await store.close()


async def test_who_listens_is_told_that_it_is_closed(path: Path) -> None:
    store = opened(path)
    changes = store.changes()
    await store.add(order("one"))
    await store.close()
    assert [change.id async for change in changes] == ["one"]


class Listening(sqlite3.Connection):
    """Notes how safe each commit is to be."""

    said: ClassVar[list[str]] = []

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql.startswith("pragma synchronous"):
            Listening.said.append(sql.rpartition(" ")[2])
        return super().execute(sql, *values)


async def test_only_what_nobody_would_do_again_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await opened(path).close()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Listening))
    store = opened(path)

    async def safety(asked: Awaitable[Any]) -> str:
        await asked
        return Listening.said[-1]

    lease = Lease("acme", "one", 1)
    assert await safety(store.add(order("one"))) == "full"
    assert await safety(store.take(1, 60)) == "full"
    assert await safety(store.append(lease, [b"a"])) == "normal"
    assert await safety(store.renew([lease], 60)) == "normal"
    assert await safety(store.move(lease, State.INPUT_REQUIRED)) == "full"
    assert await safety(store.finish(lease, Outcome(State.DONE))) == "full"
    assert await safety(store.cancel("acme", "one")) == "full"
    await store.close()


class TestVersions:
    async def test_a_later_version_is_refused_and_stays_as_it_is(self, path: Path) -> None:
        await opened(path).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma user_version = 99")
        before = path.read_bytes()
        with pytest.raises(FailedPrecondition, match="version 99, and this server knows versions up to 1") as refused:
            opened(path)
        assert refused.value.reason == "TICKET_STORE_VERSION"
        assert path.read_bytes() == before

    def test_another_database_is_refused_and_stays_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "other.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table people (name text)")
        with pytest.raises(FailedPrecondition, match="no file of tickets"):
            opened(path)

    def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a database at all" * 1000)
        with pytest.raises(Unavailable, match="damaged"):
            opened(path)
        assert path.read_text() == "not a database at all" * 1000

    async def test_a_file_of_the_version_before_is_migrated_with_its_tickets(self, path: Path) -> None:
        store = opened(path)
        await store.add(order("one"))
        await store.close()
        later = (*MIGRATIONS, "alter table tickets add column colour text; update tickets set colour = 'red'")
        TicketFile(path, migrations=later).prepare()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("select id, colour from tickets").fetchall() == [("one", "red")]
            assert connection.execute("pragma user_version").fetchone() == (len(later),)

    async def test_a_migration_that_fails_leaves_the_version_before(self, path: Path) -> None:
        store = opened(path)
        await store.add(order("one"))
        await store.close()
        broken = (*MIGRATIONS, "alter table tickets add column colour text; insert into nowhere values (1)")
        with pytest.raises(Unavailable):
            TicketFile(path, migrations=broken).prepare()
        store = opened(path)
        assert await store.get("acme", "one") is not None
        await store.close()

    def test_many_processes_make_one_file(self, path: Path) -> None:
        make = "import sys; from pathlib import Path; from narthex_server.lot.stores.sqlite.file import TicketFile"
        command = [sys.executable, "-c", f"{make}; TicketFile(Path(sys.argv[1])).prepare()", str(path)]
        processes = [subprocess.Popen(command) for _ in range(4)]
        assert [process.wait() for process in processes] == [0, 0, 0, 0]
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("select change from counter").fetchall() == [(0,)]


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """As if the disk had no room for files of more bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFailures:
    async def test_no_room_is_said_and_nothing_is_half_done(self, path: Path, store: SqliteTickets) -> None:
        ticket, _ = await store.add(order("one"), 60)
        lease = Lease("acme", "one", ticket.attempt)
        await store.append(lease, [b"a"])
        with files_at_most((path.parent / "tickets.db-wal").stat().st_size + 8192):
            with pytest.raises(Unavailable):
                await store.append(lease, [b"b" * 10_000] * 10)
            with pytest.raises(Unavailable):
                await store.add(order("two", request=b"c" * 100_000))
            assert list(await store.events("acme", "one", 0, 100)) == [b"a"]
        assert await store.holding("acme") == Holding(1, 0, 4)
        assert await store.append(lease, [b"d"]) == 2
        assert (await store.finish(lease, Outcome(State.DONE))).events == 2

    async def test_what_does_not_fit_takes_no_neighbour_along(self, path: Path, store: SqliteTickets) -> None:
        tickets = [await store.add(order(str(number)), 60) for number in range(8)]
        leases = [Lease("acme", ticket.order.id, ticket.attempt) for ticket, _ in tickets]
        with files_at_most((path.parent / "tickets.db-wal").stat().st_size + 400_000):
            sizes = [10, 10, 10, 10_000_000, 10, 10, 10, 10]
            done = await asyncio.gather(
                *(store.append(lease, [b"x" * size]) for lease, size in zip(leases, sizes, strict=True)),
                return_exceptions=True,
            )
        assert [one if isinstance(one, int) else type(one) for one in done] == [1, 1, 1, Unavailable, 1, 1, 1, 1]
        assert [len(await store.events("acme", str(number), 0, 100)) for number in range(8)] == [1, 1, 1, 0, 1, 1, 1, 1]

    async def test_who_does_not_wait_for_the_answer_disturbs_nobody(self, store: SqliteTickets) -> None:
        asked = [asyncio.create_task(store.add(order(str(number)))) for number in range(50)]
        await asyncio.sleep(0)
        for task in asked[::2]:
            task.cancel()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, tuple) for one in done[1::2])
        assert 25 <= (await store.holding("acme")).open <= 50

    async def test_a_failure_is_once_in_the_log_and_so_is_its_end(
        self, path: Path, store: SqliteTickets, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        away = path.with_name("away")
        path.rename(away)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await store.add(order("one"))
        away.rename(path)
        await store.add(order("one"))
        assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]

    async def test_refused_work_takes_no_neighbour_along(self, store: SqliteTickets) -> None:
        done = await asyncio.gather(
            store.add(order("one")),
            store.append(Lease("acme", "never", 1), [b"a"]),
            store.add(order("one")),
            store.add(order("two")),
            return_exceptions=True,
        )
        assert [type(one).__name__ for one in done] == ["tuple", "LeaseLost", "AlreadyExists", "tuple"]

    async def test_another_process_that_does_not_let_go(self, path: Path, store: SqliteTickets) -> None:
        await store.add(order("one"))
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            done = await asyncio.gather(
                *(store.add(order(f"more {number}")) for number in range(20)), return_exceptions=True
            )
            assert all(isinstance(one, Unavailable) for one in done)
            with pytest.raises(Unavailable, match="another process"):
                await store.add(order("two"))
            assert await store.get("acme", "one") is not None
            connection.execute("rollback")
        await store.add(order("two"))
        assert (await store.holding("acme")).open == 2

    async def test_a_file_that_is_gone_and_comes_back(self, path: Path, store: SqliteTickets) -> None:
        await store.add(order("one"))
        away = path.parent / "away"
        away.mkdir()
        for name in ("tickets.db", "tickets.db-wal", "tickets.db-shm"):
            (path.parent / name).rename(away / name)
        for asked in (store.add(order("two")), store.get("acme", "one")):
            with pytest.raises(Unavailable, match="gone"):
                await asked
        assert not path.exists()
        for found in away.iterdir():
            found.rename(path.parent / found.name)
        assert await store.get("acme", "one") is not None
        await store.add(order("two"))
        assert (await store.holding("acme")).open == 2

    async def test_a_file_that_is_damaged_and_restored(self, path: Path) -> None:
        store = opened(path)
        for number in range(200):
            await store.add(order(f"{number:03}", request=b"x" * 500))
        await store.close()
        whole = path.read_bytes()
        store = opened(path)
        damaged = whole[:4096] + b"\xa5" * (len(whole) - 4096)
        path.write_bytes(damaged)
        with pytest.raises(Unavailable, match="damaged"):
            await store.add(order("one"))
        with pytest.raises(Unavailable, match="damaged"):
            await store.get("acme", "000")
        path.write_bytes(whole)
        assert (await store.holding("acme")).open == 200
        await store.add(order("one"))
        assert (await store.holding("acme")).open == 201
        await store.close()

    async def test_a_file_that_cannot_be_written(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tickets.db"
            await opened(path).close()
            path.chmod(0o400)
            Path(folder).chmod(0o500)
            with unprivileged(folder, path), pytest.raises(Unavailable):
                opened(path)
            Path(folder).chmod(0o700)
            path.chmod(0o600)
            store = opened(path)
            await store.add(order("one"))
            await store.close()


@contextmanager
def unprivileged(*owned: str | Path) -> Iterator[None]:
    """Root may write what is read-only; so that these files fail for it too, they are nobody's, and so are we."""
    if os.geteuid() != 0:
        yield
        return
    for path in owned:
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.system
def test_a_full_disk(tmp_path: Path) -> None:
    """On a file system of 3 MiB in memory, which only this process sees."""
    mounted = 'mount -t tmpfs -o size=3m tmpfs "$1" && exec "$2" "$3" "$1"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    done = subprocess.run([*command, str(tmp_path), sys.executable, full_disk.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "disk of the tickets is full" in done.stdout
