"""What PostgreSQL is for: several servers, and a database that may be lost at any time."""

import asyncio
import ipaddress
import json
import logging
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from cryptography import x509
from narthex_server.errors import FailedPrecondition, InvalidRequest, ResourceExhausted, Unavailable
from narthex_server.lot.stores.postgres import statements
from narthex_server.lot.stores.postgres.connection import connected
from narthex_server.lot.stores.postgres.location import Location
from narthex_server.lot.stores.postgres.schema import MIGRATIONS, migrate
from narthex_server.lot.stores.postgres.tickets import PostgresTickets
from narthex_server.lot.stores.store import Lease
from narthex_server.lot.ticket import Change, Outcome, Quota, State

from tests.e2e.authority import Authority
from tests.unit.lot.stores.cable import Cable
from tests.unit.lot.stores.places import order
from tests.unit.lot.stores.postgres_server import PostgresServer

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[4]
DONE = Outcome(State.DONE)
EVENTS = 4


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A schema of its own, in a database that stays."""
    return f"{postgres_server.url}&schema=test_{uuid4().hex}"


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """For tests that stop it."""
    with TemporaryDirectory() as folder:
        server = PostgresServer(Path(folder))
        server.create()
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., PostgresTickets]]:
    """Opens stores, and closes them."""
    async with AsyncExitStack() as stack:

        def open_one(url: str, quota: Quota = Quota()) -> PostgresTickets:  # noqa: B008 (frozen)
            store = PostgresTickets(Location.parse(url), quota)
            stack.push_async_callback(store.close)
            return store

        yield open_one


@pytest.fixture
async def cable(postgres_server: PostgresServer) -> AsyncIterator[Cable]:
    with TemporaryDirectory() as folder:
        cable = Cable(Path(folder), postgres_server.folder)
        await cable.lay()
        yield cable
        await cable.close()


@asynccontextmanager
async def working(url: str, name: str, *fate: object) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.unit.lot.stores.worker", url, name, *map(str, fate),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process) -> list[list[str]]:
    """All lines of a process that has ended; the last may be torn."""
    assert process.stdout is not None
    lines = (await process.stdout.read()).decode().split("\n")[:-1]
    return [line.split() for line in lines]


async def filled(store: PostgresTickets, count: int) -> list[str]:
    names = [f"t{number:04}" for number in range(count)]
    for start in range(0, count, 100):
        adds = (store.add(order(name, submitted=time.time(), request=b"%d" % EVENTS)) for name in names[start:][:100])
        await asyncio.gather(*adds)
    return names


async def finished(store: PostgresTickets) -> None:
    changes = store.changes()
    while (await store.holding("acme")).open:
        await anext(changes)


async def check(store: PostgresTickets, names: list[str], lines: list[list[str]]) -> None:
    """Every ticket was done once, with all its events, and what was said to be kept is."""
    done = Counter(line[1] for line in lines if line[0] == "done")
    assert set(done.values()) <= {1}
    for name in names:
        ticket = await store.get("acme", name)
        assert ticket is not None
        assert ticket.state is State.DONE
        expected = [f"{name} {number}".encode() for number in range(EVENTS)]
        assert list(await store.events("acme", name, 0, 1 << 20)) == expected
    kept = Counter((line[1], line[2]) for line in lines if line[0] == "kept")
    assert set(kept.values()) == {1}


class TestSharing:
    @pytest.mark.parametrize("count", [2, 4])
    async def test_processes_share_a_thousand_tickets(self, url: str, opened: Any, count: int) -> None:
        store = opened(url)
        names = await filled(store, 1000)
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(working(url, f"w{number}")) for number in range(count)]
            async with asyncio.timeout(100):
                await finished(store)
        lines = [line for worker in workers for line in await said(worker)]
        await check(store, names, lines)
        done = [line for line in lines if line[0] == "done"]
        assert {line[2] for line in done} == {"1"}
        assert len(done) == 1000
        assert {line[3] for line in done} == {f"w{number}" for number in range(count)}

    async def test_one_key_is_one_ticket_whoever_is_asked(self, url: str, opened: Any) -> None:
        stores = [opened(url) for _ in range(4)]
        asks = [stores[n % 4].add(order(f"t{n}", key="k", digest=b"same")) for n in range(40)]
        answers = await asyncio.gather(*asks)
        assert len({ticket.order.id for ticket, _ in answers}) == 1
        assert [new for _, new in answers].count(True) == 1

    async def test_a_quota_holds_exactly_whoever_is_asked(self, url: str, opened: Any) -> None:
        stores = [opened(url, Quota(open=10)) for _ in range(4)]
        asks = [stores[n % 4].add(order(f"t{n}")) for n in range(40)]
        answers = await asyncio.gather(*asks, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
        assert len(refused) == 30
        assert refused[0].metadata == {"open": "10", "max_open": "10"}
        assert (await stores[0].holding("acme")).open == 10

    async def test_work_on_many_tenants_at_once_never_waits_in_a_circle(self, url: str, opened: Any) -> None:
        stores = [opened(url) for _ in range(3)]

        async def pass_through(number: int) -> None:
            store, tenant = stores[number % 3], f"t{number * 7 % 5}"
            ticket, _ = await store.add(order(f"o{number}", tenant), 60)
            lease = Lease(tenant, ticket.order.id, 1)
            await store.append(lease, [b"a"])
            await asyncio.gather(store.renew([lease], 60), store.take(1, 60), store.sweep())
            await store.finish(lease, DONE)
            await store.cancel(tenant, ticket.order.id)

        async with asyncio.timeout(30):
            await asyncio.gather(*(pass_through(number) for number in range(120)))
        for number in range(5):
            held = await stores[0].holding(f"t{number}")
            assert (held.open, held.parked, held.size) == (0, 0, 0)

    async def test_servers_may_start_at_once(self, url: str, opened: Any) -> None:
        stores = [opened(url) for _ in range(8)]
        await asyncio.gather(*(store.holding("acme") for store in stores))
        await stores[0].add(order("one"))
        assert [(await store.holding("acme")).open for store in stores] == [1] * 8


class TestDeath:
    @pytest.mark.parametrize(
        ("point", "count"),
        [("take", 1), ("append", 1), ("append", 13), ("finish", 3), ("commit", 1), ("commit", 4), ("committed", 1),
         ("committed", 5)],
    )  # fmt: skip
    async def test_a_worker_that_dies_loses_nothing(self, url: str, opened: Any, point: str, count: int) -> None:
        store = opened(url)
        names = await filled(store, 24)
        async with working(url, "dies", point, count) as dies:
            async with asyncio.timeout(60):
                assert await dies.wait() == -signal.SIGKILL
        async with working(url, "lives") as lives, asyncio.timeout(60):
            await finished(store)
        await check(store, names, await said(dies) + await said(lives))

    async def test_workers_that_die_at_any_time_lose_nothing(self, url: str, opened: Any) -> None:
        store = opened(url)
        names = await filled(store, 300)
        chance = random.Random(7)
        lines: list[list[str]] = []
        for number in range(6):
            async with working(url, f"dies{number}") as dies:
                await asyncio.sleep(chance.uniform(0.05, 0.6))
            lines += await said(dies)
        async with working(url, "lives") as lives, asyncio.timeout(60):
            await finished(store)
        await check(store, names, lines + await said(lives))

    async def test_the_database_restarts_in_the_middle(self, own_server: PostgresServer, opened: Any) -> None:
        store = opened(own_server.url)
        names = await filled(store, 400)
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(working(own_server.url, f"w{number}")) for number in range(2)]
            for _ in range(3):
                await asyncio.sleep(0.4)
                await asyncio.to_thread(own_server.restart)
            async with asyncio.timeout(90):
                while True:
                    try:
                        await finished(store)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.1)
        await check(store, names, [line for worker in workers for line in await said(worker)])


class TestLostConnections:
    @pytest.mark.parametrize("text", [b"BEGIN", b"unnest", b"COMMIT"])
    async def test_one_cut_before_the_commit_is_tried_again(self, cable: Cable, opened: Any, text: bytes) -> None:
        store = opened(f"{cable.url}&schema=test_{uuid4().hex}")
        await store.add(order("one"), 60)
        cuts = cable.cuts
        cable.before = text
        assert await store.append(Lease("acme", "one", 1), [b"a", b"b"]) == 2
        assert cable.cuts > cuts
        assert list(await store.events("acme", "one", 0, 100)) == [b"a", b"b"]

    async def test_one_cut_behind_the_commit_is_found_to_have_happened(self, cable: Cable, opened: Any) -> None:
        store = opened(f"{cable.url}&schema=test_{uuid4().hex}")
        await store.add(order("one"), 60)
        cuts = cable.cuts
        cable.after = b"COMMIT"
        assert await store.append(Lease("acme", "one", 1), [b"a", b"b"]) == 2
        assert cable.cuts > cuts
        assert list(await store.events("acme", "one", 0, 100)) == [b"a", b"b"]
        cable.after = b"COMMIT"
        assert [ticket.order.id for ticket in [await store.finish(Lease("acme", "one", 1), DONE)]] == ["one"]

    async def test_a_question_is_asked_again(self, cable: Cable, opened: Any) -> None:
        store = opened(f"{cable.url}&schema=test_{uuid4().hex}")
        await store.add(order("one"))
        assert (await store.holding("acme")).open == 1
        cable.cut()
        assert await store.get("acme", "one") is not None

    async def test_what_changed_while_nobody_listened_is_told(
        self, cable: Cable, url: str, opened: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        schema = Location.parse(url).schema
        store, deaf = opened(url), opened(f"{cable.url}&schema={schema}")
        for name in ("before", "one", "two"):
            await store.add(order(name), 60)
        await deaf.holding("acme")
        changes = deaf.changes()
        cable.broken = True
        cable.cut()
        await store.append(Lease("acme", "one", 1), [b"a"])
        await store.finish(Lease("acme", "two", 1), DONE)
        await asyncio.sleep(0.5)
        await store.add(order("three"))
        cable.broken = False
        heard = {}
        async with asyncio.timeout(10):
            while set(heard) != {"one", "two", "three"}:
                change = await anext(changes)
                heard[change.id] = change
        assert heard["one"] == Change("acme", "one", 1, 1)
        assert heard["two"] == Change("acme", "two", 2, 0)
        await store.add(order("later"))
        async with asyncio.timeout(5):
            assert await anext(changes) == Change("acme", "later", 1, 0)

    async def test_a_lost_database_is_an_error_at_once_and_comes_back(
        self, own_server: PostgresServer, opened: Any
    ) -> None:
        store = opened(own_server.url)
        await store.add(order("one"), 60)
        changes = store.changes()
        await asyncio.to_thread(own_server.stop)
        asks = (store.add(order("two")), store.get("acme", "one"), store.append(Lease("acme", "one", 1), [b"a"]))
        async with asyncio.timeout(5):
            for answer in await asyncio.gather(*asks, return_exceptions=True):
                assert isinstance(answer, Unavailable)
                assert answer.reason == "TICKET_STORE"
        await asyncio.to_thread(own_server.start)
        assert list(await store.events("acme", "one", 0, 100)) == []
        assert await store.append(Lease("acme", "one", 1), [b"a"]) == 1
        async with asyncio.timeout(10):
            while (await anext(changes)) != Change("acme", "one", 1, 1):
                pass
        assert (await store.holding("acme")).open == 1

    async def test_a_database_that_is_not_there_yet(self, own_server: PostgresServer, opened: Any) -> None:
        await asyncio.to_thread(own_server.stop)
        store, other = opened(own_server.url), opened(own_server.url)
        changes = other.changes()
        with pytest.raises(Unavailable):
            await store.add(order("one"))
        await asyncio.to_thread(own_server.start)
        await other.holding("acme")
        await store.add(order("one"))
        async with asyncio.timeout(5):
            assert (await anext(changes)).id == "one"

    async def test_a_database_that_says_nothing_is_an_error_in_a_bounded_time(
        self, own_server: PostgresServer, opened: Any
    ) -> None:
        store = opened(own_server.url)
        await store.add(order("one"), 60)
        own_server.pause()
        try:
            begin = time.monotonic()
            asks = (store.append(Lease("acme", "one", 1), [b"a"]), store.get("acme", "one"))
            answers = await asyncio.gather(*asks, return_exceptions=True)
            assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
            assert time.monotonic() - begin < 30
        finally:
            own_server.resume()
        async with asyncio.timeout(20):
            assert await store.append(Lease("acme", "one", 1), [b"b"]) == 1
        assert list(await store.events("acme", "one", 0, 100)) == [b"b"]


async def test_a_full_disk_refuses_writes_and_recovers(own_server: PostgresServer, opened: Any) -> None:
    own_server.file_bytes = 20 << 20  # more than a file of the log has
    await asyncio.to_thread(own_server.restart)
    store = opened(own_server.url)
    await store.add(order("one"), 600)
    kept = 0
    with pytest.raises(Unavailable) as refused:
        while kept < 60:
            kept = await store.append(Lease("acme", "one", 1), [os.urandom(1 << 20)])
    assert refused.value.reason == "TICKET_STORE"
    ticket = await store.get("acme", "one")
    assert (ticket.events, ticket.state) == (kept, State.RUNNING)
    assert len(await store.events("acme", "one", kept - 1, 1)) == 1
    own_server.file_bytes = resource.RLIM_INFINITY
    await asyncio.to_thread(own_server.restart)
    assert await store.append(Lease("acme", "one", 1), [b"a"]) == kept + 1
    assert (await store.holding("acme")).size == len(b"one") + (kept << 20) + 1


class TestSchema:
    async def test_a_migration_that_fails_leaves_what_there_was(self, url: str) -> None:
        location = Location.parse(url)
        async with await connected(location) as connection:
            await migrate(connection, location.schema)
            broken = (*MIGRATIONS, "CREATE TABLE {schema}.more (one int); SELECT nothing FROM nowhere")
            with pytest.raises(psycopg.Error):
                await migrate(connection, location.schema, broken)
            await migrate(connection, location.schema, (*MIGRATIONS, "CREATE TABLE {schema}.more (one int)"))
            cursor = await connection.execute(f"SELECT max(number) FROM {location.schema}.migrations".encode())
            assert await cursor.fetchone() == (2,)

    async def test_a_newer_schema_is_left_alone(self, url: str, opened: Any) -> None:
        location = Location.parse(url)
        async with await connected(location) as connection:
            await migrate(connection, location.schema, (*MIGRATIONS, "CREATE TABLE {schema}.more (one int)"))
        with pytest.raises(FailedPrecondition, match="newer version"):
            await opened(url).holding("acme")

    async def test_taking_from_many_uses_the_indices(self, url: str, opened: Any) -> None:
        store = opened(url, Quota(open=20_000))
        await store.holding("acme")
        location = Location.parse(url)
        async with await connected(location) as connection:
            await connection.execute(b"INSERT INTO tenants SELECT 'tenant' || n FROM generate_series(0, 9) AS n")
            await connection.execute(b"""
                INSERT INTO tickets (tenant, id, principal, kind, request, digest, submitted, keep, priority,
                    repeatable, rank, state, version, attempt, size)
                SELECT 'tenant' || n % 10, n, '', 'chat', 'hello', '', n, 60, 1, true, n, 'waiting', 1, 0, 5
                FROM generate_series(1, 10000) AS n""")
            await connection.execute(b"ANALYZE")
            asked = {"most": 8, "spare": 16, "lease": 60.0}
            cursor = await connection.execute(f"EXPLAIN (FORMAT JSON) {statements.TAKE}".encode(), asked)
            [[[plan]]] = await cursor.fetchall()
        text = json.dumps(plan)
        assert "tickets_waiting" in text
        assert "Seq Scan" not in text
        taken = await store.take(8, 60)
        assert [ticket.order.id for ticket in taken] == ["1", "2", "3", "4", "5", "6", "7", "8"]

    async def test_what_no_notification_can_hold_is_told_all_the_same(self, url: str, opened: Any) -> None:
        store, other = opened(url), opened(url)
        await other.holding("acme")
        changes = other.changes()
        tenant = "t" * 2000 + "ü" * 3000
        await store.add(order("one", tenant))
        async with asyncio.timeout(5):
            assert await anext(changes) == Change(tenant, "one", 1, 0)

    async def test_strange_notifications_harm_nothing(self, url: str, opened: Any) -> None:
        store = opened(url)
        await store.holding("acme")
        changes = store.changes()
        location = Location.parse(url)
        async with await connected(location) as connection:
            for payload in ("", "{", "[1]", "null", '{"a": 1}', "[1, 2, 3, 4]"):
                await connection.execute(b"SELECT pg_notify(%s, %s)", (f"{location.schema}_lot", payload))
        await store.add(order("one"))
        async with asyncio.timeout(5):
            while (await anext(changes)) != Change("acme", "one", 1, 0):
                pass

    async def test_texts_that_cannot_be_kept(self, url: str, opened: Any) -> None:
        store = opened(url)
        with pytest.raises(InvalidRequest):
            await store.add(order("nul\0"))
        assert await store.get("acme", "nul\0") is None
        assert await store.cancel("acme", "nul\0") is None
        _, new = await store.add(order("one", key="any \0 key"))
        assert new

    async def test_what_is_no_text_at_all_harms_nobody_beside_it(self, url: str, opened: Any) -> None:
        store = opened(url)
        await store.holding("acme")
        asks = [store.add(order("text", id=name)) for name in ("one", "\ud800", "two")]
        answers = await asyncio.gather(*asks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [tuple, UnicodeEncodeError, tuple]


async def test_nothing_is_done_while_nothing_happens(url: str, opened: Any, postgres_console: Any) -> None:
    store = opened(url)
    await store.holding("acme")
    changes = store.changes()
    await store.add(order("one"))
    assert (await anext(changes)).version == 1
    waiting = asyncio.create_task(anext(changes))
    statement = "SELECT max(query_start) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    before, begin = postgres_console.execute(statement).fetchall(), time.process_time()
    await asyncio.sleep(2)
    assert time.process_time() - begin < 0.05
    assert postgres_console.execute(statement).fetchall() == before
    await store.cancel("acme", "one")
    assert (await waiting).version == 2


async def test_passwords_are_in_no_error_and_no_log(
    own_server: PostgresServer, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (own_server.data / "pg_hba.conf").write_text("local all all scram-sha-256\n")
    await asyncio.to_thread(own_server.restart)
    for url in (
        own_server.url.replace("postgres@", "postgres:s3cret%21@"),
        own_server.url + "&password=s3cret%21",
        "postgresql://postgres:s3cret%21@localhost:1/postgres",
        "postgresql://postgres:s3cret%21@[::1/postgres",
        "postgresql://postgres:s3cret%21@host/db?nonsense=1",
        "postgresql://postgres:s3cret%21@host/db?schema=No",
    ):
        with pytest.raises((Unavailable, ValueError)) as failed:
            await opened(url).holding("acme")
        text = "".join(traceback.format_exception(failed.value)) + repr(failed.value)
        assert "s3cret" not in text.replace(url, "")
    assert "s3cret" not in caplog.text
    assert "s3cret" not in repr(Location.parse("postgresql://postgres:s3cret@host/db"))


async def test_tls_and_a_password_by_the_url(opened: Any, own_server: PostgresServer, tmp_path: Path) -> None:
    authority, stranger = Authority(own_server.folder), Authority(tmp_path)
    authority.issue("database", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    key, owner = own_server.folder / "database.key", own_server.data.stat()
    os.chown(key, owner.st_uid, owner.st_gid)
    key.chmod(0o600)
    with psycopg.connect(own_server.url, autocommit=True) as console:
        console.execute("ALTER USER postgres PASSWORD 's3cret'")
    (own_server.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    certificate = (f"ssl_cert_file={own_server.folder}/database.pem", f"ssl_key_file={key}")
    own_server.settings = ("listen_addresses=127.0.0.1", f"port={port}", "ssl=on", *certificate)
    await asyncio.to_thread(own_server.restart)

    def url(password: str, trusted: Path) -> str:
        place = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        return f"{place}?sslmode=verify-full&sslrootcert={trusted}/ca.pem&schema=lot"

    store = opened(url("s3cret", authority.folder))
    await store.add(order("one"))
    changes = store.changes()
    await store.cancel("acme", "one")
    async with asyncio.timeout(5):
        while (await anext(changes)).version < 2:
            pass
    for wrong in (url("guess", authority.folder), url("s3cret", stranger.folder)):
        with pytest.raises(Unavailable):
            await opened(wrong).holding("acme")
