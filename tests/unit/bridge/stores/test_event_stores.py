"""Every event store against one simple model of what it should do."""

import asyncio
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from narthex.settings import SettingsError
from narthex_bridge.stores.memory import MemoryEvents
from narthex_bridge.stores.redis import RedisEvents, RedisRecords, connect
from narthex_bridge.stores.sqlite import SqliteEvents, SqliteFile, SqliteRecords
from narthex_bridge.stores.store import PAGE, Bounds, EventStore, Page, StoreUnavailable

BOUNDS = Bounds(events=5, session_bytes=40, total_bytes=60, age_s=10.0)
NAMES, SESSIONS = ("get", "one", "two"), ("ann", "bob", "cy")


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Model:
    """A list of all events, and what each stream was told."""

    clock: Clock
    events: list[tuple[float, str, str, int, bytes]] = field(default_factory=list)
    streams: dict[tuple[str, str], list] = field(default_factory=dict)  # note, last, ended
    written: list[str] = field(default_factory=list)

    def touch(self, session):
        self.written = [other for other in self.written if other != session] + [session]

    def drop(self, event):
        self.events.remove(event)
        key = event[1:3]
        if self.streams[key][2] and not any(other[1:3] == key for other in self.events):
            del self.streams[key]

    def of(self, session):
        return [event for event in self.events if event[1] == session]

    def expire(self, session):
        for event in self.of(session):
            if event[0] <= self.clock.now - BOUNDS.age_s:
                self.drop(event)

    def begin(self, session, stream, note):
        self.touch(session)
        self.streams.setdefault((session, stream), [b"", 0, False])[0] = note

    def append(self, session, stream, first, messages, ended):
        self.expire(session)
        self.touch(session)
        state = self.streams.setdefault((session, stream), [b"", 0, False])
        if state[2]:
            return
        for number, message in enumerate(messages, first):
            if number > state[1]:
                self.events.append((self.clock.now, session, stream, number, message))
                state[1] = number
        state[2] = ended
        while len(own := self.of(session)) > BOUNDS.events or sum(len(e[4]) for e in own) > BOUNDS.session_bytes:
            self.drop(own[0])
        while sum(len(event[4]) for event in self.events) > BOUNDS.total_bytes:
            self.drop(next(self.of(other)[0] for other in self.written if self.of(other)))

    def read(self, session, stream, after):
        self.expire(session)
        if (state := self.streams.get((session, stream))) is None:
            return None
        kept = [event[3:] for event in self.events if event[1:3] == (session, stream) and event[3] > after]
        return Page(state[0], kept[:PAGE], state[1], state[2])

    def forget(self, session):
        for event in self.of(session):
            self.events.remove(event)
        for key in [key for key in self.streams if key[0] == session]:
            del self.streams[key]

    def sweep(self):
        for session in SESSIONS:
            self.expire(session)


session, stream = st.sampled_from(SESSIONS), st.sampled_from(NAMES)
messages = st.lists(st.binary(min_size=1, max_size=12), max_size=4)
ended = st.sampled_from([False] * 4 + [True])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), session, stream, st.binary(max_size=4)),
        st.tuples(
            st.just("append"), session, stream, st.integers(0, 3), messages, st.sampled_from([False] * 4 + [True])
        ),
        st.tuples(st.just("read"), session, stream, st.integers(0, 6)),
        st.tuples(st.just("forget"), session),
        st.tuples(st.just("sweep")),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 4.0, 10.0])),
        st.tuples(st.just("reopen")),
    ),
    max_size=40,
)


class Memory:
    """What is reopened is the same store: memory survives nothing."""

    @asynccontextmanager
    async def opened(self, clock: Clock) -> AsyncIterator["Memory"]:
        self.store: EventStore = MemoryEvents(BOUNDS, clock)
        yield self

    async def reopen(self, clock: Clock) -> None:
        """Nothing to do."""


class Sqlite(Memory):
    @asynccontextmanager
    async def opened(self, clock):
        with tempfile.TemporaryDirectory() as folder:
            self.path = Path(folder) / "events.db"
            self.store = SqliteEvents(SqliteFile(self.path), BOUNDS, clock)
            yield self
            await self.store.close()

    async def reopen(self, clock):
        await self.store.close()
        self.store = SqliteEvents(SqliteFile(self.path), BOUNDS, clock)


class Redis(Memory):
    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def opened(self, clock):
        client = connect(self.url)
        await client.flushdb()
        self.store = RedisEvents(client, BOUNDS, 60.0, clock)
        yield self
        await self.store.close()

    async def reopen(self, clock):
        await self.store.close()
        self.store = RedisEvents(connect(self.url), BOUNDS, 60.0, clock)


async def agrees(place: Memory, steps: list[tuple]) -> None:
    clock = Clock()
    model, opened = Model(clock), place.opened(clock)
    opened: AbstractAsyncContextManager[Memory]
    async with opened:
        for name, *arguments in steps:
            match name:
                case "wait":
                    clock.now += arguments[0]
                case "reopen":
                    await place.reopen(clock)
                case "append":
                    # As writers do: from the next number on, or again what may have been kept already.
                    session, stream, back, *rest = arguments
                    first = max(1, model.streams.get((session, stream), [b"", 0, False])[1] + 1 - back)
                    model.append(session, stream, first, *rest)
                    await place.store.append(session, stream, first, *rest)
                case _:
                    expected = getattr(model, name)(*arguments)
                    assert await getattr(place.store, name)(*arguments) == expected
            for session in SESSIONS:
                for stream in NAMES:
                    expected = model.read(session, stream, 0)
                    assert await place.store.read(session, stream, 0) == expected


@given(steps)
@settings(deadline=None, max_examples=150)
def test_memory_agrees_with_the_model(steps):
    asyncio.run(agrees(Memory(), steps))


@given(steps)
@settings(deadline=None, max_examples=40)
def test_sqlite_agrees_with_the_model_also_when_it_is_opened_again(steps):
    asyncio.run(agrees(Sqlite(), steps))


@pytest.mark.system
@given(steps=steps)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_redis_agrees_with_the_model(redis_process, steps):
    asyncio.run(agrees(Redis(redis_process), steps))


@pytest.fixture(scope="module")
def redis_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", "0", "--unixsocket", f"{folder}/r.sock", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while "eady to accept connections" not in (line := process.stdout.readline()):
            assert line
        yield f"unix://{folder}/r.sock"
        process.kill()


async def test_more_than_a_page_is_read_in_pages():
    store = MemoryEvents(Bounds(10_000, 1 << 20, 1 << 20, 60))
    await store.append("s", "one", 1, [b"%d" % n for n in range(1, 2 * PAGE + 1)], True)
    page = await store.read("s", "one", 10)
    assert [number for number, _ in page.events] == list(range(11, 11 + PAGE))


async def test_records_survive_and_idle_ones_do_not(tmp_path):
    clock = Clock()
    file = SqliteFile(tmp_path / "s.db")
    records = SqliteRecords(file, 100.0, clock)
    await records.save("ann", {"era": b"1", "level": b"2"})
    await records.save("ann", {"level": b"3"})
    await records.save("bob", {"era": b"4"})
    file.close()
    file = SqliteFile(tmp_path / "s.db")
    records = SqliteRecords(file, 100.0, clock)
    clock.now += 99
    assert await records.load("ann") == {"era": b"1", "level": b"3"}
    clock.now += 2
    assert await records.load("bob") is None
    await records.touch(["ann"])
    clock.now += 99
    assert await records.load("ann") is not None
    await records.remove("ann")
    assert await records.load("ann") is None
    file.close()


@pytest.mark.system
async def test_records_in_redis_are_forgotten_by_it(redis):
    client = connect(redis.url)
    records = RedisRecords(client, 0.2)
    await records.save("ann", {"era": b"1", "level": b"2"})
    await records.save("ann", {"level": b"3"})
    assert await records.load("ann") == {"era": b"1", "level": b"3"}
    assert 0 < await client.pttl("narthex:session:ann") <= 200
    async with asyncio.timeout(5):
        while await client.exists("narthex:session:ann"):
            pass
    assert await records.load("ann") is None
    await client.aclose()


def test_a_file_is_of_one_bridge_and_of_ours(tmp_path):
    file = SqliteFile(tmp_path / "s.db")
    script = "import sys, pathlib, narthex_bridge.stores.sqlite as s\ns.SqliteFile(pathlib.Path(sys.argv[1]))"
    other = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "s.db"], capture_output=True, text=True, timeout=30
    )
    assert other.returncode == 1 and "database is locked" in other.stderr.splitlines()[-1]
    file.close()
    (tmp_path / "text").write_text("no database at all, but long enough to be one" * 100)
    with pytest.raises(SettingsError, match="not a database"):
        SqliteFile(tmp_path / "text")
    with pytest.raises(SettingsError, match="cannot be used"):
        SqliteFile(tmp_path / "no" / "folder")


@pytest.mark.system
async def test_nothing_is_left_in_redis_of_sessions_that_are_gone(redis):
    clock = Clock()
    client = connect(redis.url)
    store = RedisEvents(client, Bounds(10, 1000, 1000, 0.1), 0.1, clock)
    await store.begin("s", "never ends", b"note")
    await store.append("s", "get", 1, [b"x"], False)
    await store.append("s", "one", 1, [b"y"], True)
    clock.now += 1
    await store.sweep()
    async with asyncio.timeout(5):
        while {b"narthex:events:turn", b"narthex:events:bytes"} != set(await client.keys("*")):
            pass
    assert await client.get("narthex:events:bytes") == b"0"
    await store.close()


@pytest.mark.system
async def test_a_redis_that_is_away_fails_at_once_and_works_again_when_it_is_back(redis):
    store = RedisEvents(connect(redis.url), BOUNDS, 60.0)
    await store.append("s", "one", 1, [b"x"], False)
    await redis.stop()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.read("s", "one", 0)
    assert time.monotonic() - started < 5
    await redis.start()
    await store.append("s", "one", 1, [b"y"], False)
    assert (await store.read("s", "one", 0)).events == [(1, b"y")]
    await store.close()


async def test_what_is_kept_takes_the_memory_that_it_says():
    """orjson writes into blocks of kilobytes, and what it returns keeps them."""
    store = MemoryEvents(Bounds(events=2000, session_bytes=1 << 20, total_bytes=1 << 20, age_s=10.0))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, 1001):
            await store.append("ann", "one", number, [orjson.dumps({"n": number})], False)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1000 * 500
