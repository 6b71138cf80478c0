"""The desk, the crew, the sweeper and the courier over a file of tickets, with work that a test makes up."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from narthex_server.errors import NotFound, ResourceExhausted, Unavailable
from narthex_server.lot.courier import Courier
from narthex_server.lot.crew import Crew
from narthex_server.lot.desk import Desk, Kept
from narthex_server.lot.journal import PACE
from narthex_server.lot.news import News
from narthex_server.lot.runner import Happening
from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.stores.store import Lease
from narthex_server.lot.sweeper import Sweeper
from narthex_server.lot.ticket import Holding, Order, Outcome, Quota, State, Ticket, Webhook
from narthex_server.lot.transition import Transition, Verb

NOW = 1_000_000.0
TENANT = "acme"


class Troubled(SqliteTickets):
    """A store whose database is lost for a number of writes."""

    lost = 0
    appends = reads = 0

    async def get(self, tenant: str, ticket: str) -> Ticket | None:
        self.reads += 1
        return await super().get(tenant, ticket)

    def _perhaps(self) -> None:
        if self.lost:
            self.lost -= 1
            raise Unavailable("lost")

    async def append(self, lease: Lease, events: Sequence[bytes]) -> int:
        self._perhaps()
        self.appends += 1
        return await super().append(lease, events)

    async def finish(self, lease: Lease, outcome: Outcome, events: Sequence[bytes] = ()) -> Ticket:
        self._perhaps()
        return await super().finish(lease, outcome, events)


class Script:
    """A Runner whose work is what a test says by `say`, `end` and `fail`, for each ticket."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, Sequence[bytes]]] = []
        self.closed: list[str] = []
        self.over = asyncio.Event()
        self.lines: dict[str, asyncio.Queue[bytes | Happening | Exception | None]] = {}

    def of(self, ticket: str) -> "asyncio.Queue[bytes | Happening | Exception | None]":
        return self.lines.setdefault(ticket, asyncio.Queue())

    async def run(self, order: Order, attempt: int, kept: Sequence[bytes]) -> AsyncGenerator[Happening]:
        self.begun.append((order.id, attempt, kept))
        try:
            while (line := await self.of(order.id).get()) is not None:
                if isinstance(line, Exception):
                    raise line
                yield line if isinstance(line, Happening) else Happening(line)
        finally:
            self.closed.append(order.id)
            self.over.set()

    def ended(self, order: Order) -> None:
        pass

    def outcome(self, error: Exception) -> Outcome:
        return Outcome(State.FAILED, 2, str(error).encode())


class Record:
    """Keeps what an observer is told."""

    def __init__(self) -> None:
        self.transitions: list[Transition] = []
        self.holding: Holding | None = None

    def on_transition(self, transition: Transition) -> None:
        self.transitions.append(transition)

    def on_holding(self, holding: Holding) -> None:
        self.holding = holding

    @property
    def verbs(self) -> list[Verb]:
        return [transition.verb for transition in self.transitions]


@dataclass
class Post:
    """A Post that fails as often as it is told to."""

    failures: int = 0
    sent: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> str:
        self.sent.append((url, headers, body))
        self.failures -= 1
        return "answered 500" if self.failures >= 0 else ""


class House:
    """A server's lot, without the server."""

    def __init__(
        self, path: Path, clock: Callable[[], float], most: int = 2, lease: float = 30.0, size: int = 256 << 20
    ) -> None:
        self.store = Troubled(path, Quota(size=size), clock)
        self.script, self.record, self.post, self.news = Script(), Record(), Post(), News()
        self.crew = Crew(self.store, self.script, self.news, self.record, most=most, lease=lease, clock=clock)
        self.desk = Desk(self.store, self.crew, self.news, self.record, clock)
        self.sweeper = Sweeper(self.store, self.news, self.record)
        self.courier = Courier(self.store, self.post, self.record, clock)

    async def over(self, ticket: str) -> Ticket:
        async with asyncio.timeout(10), aclosing(self.desk.watch(TENANT, (ticket,))) as changes:
            return [change async for change in changes][-1]

    async def events(self, ticket: str, after: int = 0) -> AsyncIterator[bytes]:
        async with aclosing(self.desk.follow(TENANT, ticket, after)) as told:
            async for one in told:
                if isinstance(one, Kept):
                    yield one.event


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_house(tmp_path: Path, clock: Clock) -> AsyncIterator[Callable[..., House]]:
    houses = []

    def opened(**options: float) -> House:
        house = House(tmp_path / "tickets.sqlite", clock, **options)  # type: ignore[arg-type]
        house.reading = asyncio.create_task(house.desk.read_changes())  # type: ignore[attr-defined]
        house.crew.start()
        houses.append(house)
        return house

    yield opened
    for house in houses:
        house.reading.cancel()  # type: ignore[attr-defined]
        await house.crew.drain(0)
        await house.store.close()


def order(name: str = "t", **fields: object) -> Order:
    made = Order(name, TENANT, b"{}", "generate", b"r", b"d", NOW, keep=60.0, deadline=NOW + 100)
    return replace(made, **fields)  # type: ignore[arg-type]


async def test_work_goes_on_when_the_clock_is_set_or_the_machine_has_slept(open_house, clock) -> None:
    house = open_house(lease=30.0)
    await house.desk.submit(order("acts", repeatable=False, deadline=None))
    house.script.of("acts").put_nowait(b"one")
    follower = house.events("acts")
    assert await anext(follower) == b"one"
    for jump in (3600.0, -7200.0):
        clock.now += jump
        await house.desk.submit(order(f"after {jump}", deadline=None))
        house.script.of(f"after {jump}").put_nowait(None)
        assert (await house.over(f"after {jump}")).state is State.DONE
    house.script.of("acts").put_nowait(b"two")
    house.script.of("acts").put_nowait(None)
    assert [event async for event in follower] == [b"two"]
    assert house.script.begun[0][:2] == ("acts", 1)
    assert (await house.over("acts")).attempt == 1 and len(house.script.begun) == 3


async def test_what_happens_is_followed_as_it_happens_and_from_any_place(open_house) -> None:
    house = open_house()
    await house.desk.submit(order())
    said = house.script.of("t")
    follower = house.events("t")
    for number in range(3):
        said.put_nowait(b"%d" % number)
        assert await anext(follower) == b"%d" % number
    said.put_nowait(None)
    assert [event async for event in follower] == []
    assert [event async for event in house.events("t", 1)] == [b"1", b"2"]
    assert house.record.verbs == [Verb.SUBMITTED, Verb.STARTED, Verb.FINISHED]


async def test_only_so_many_are_worked_on_and_begun_ones_do_not_count(open_house) -> None:
    house = open_house(most=1)
    for name in "ab":
        await house.desk.submit(order(name))
    await house.desk.begin(order("now"))
    for name in ("a", "now"):
        house.script.of(name).put_nowait(b"x")
        await anext(house.events(name))
    assert sorted(name for name, _, _ in house.script.begun) == ["a", "now"]
    assert await house.desk.ahead(await house.desk.get(TENANT, "b")) == 0
    house.script.of("a").put_nowait(None)
    house.script.of("b").put_nowait(None)
    assert (await house.over("b")).state is State.DONE


async def test_work_that_fails_keeps_what_it_said_before(open_house) -> None:
    house = open_house()
    await house.desk.begin(order())
    for line in (b"a", ValueError("broken")):
        house.script.of("t").put_nowait(line)
    failed = await house.over("t")
    assert (failed.state, failed.code, failed.status) == (State.FAILED, 2, b"broken")
    assert [event async for event in house.events("t")] == [b"a"]


@pytest.mark.parametrize(
    "refusal",
    [
        ResourceExhausted("full", reason="QUEUE_FULL", retry_after=0.001),
        Unavailable("draining", reason="DRAINING", retry_after=0.001),
        Unavailable("starting", reason="UPSTREAM_STARTING", retry_after=0.001),
    ],
    ids=lambda error: error.reason,
)
async def test_work_that_cannot_be_done_yet_is_begun_again(open_house, refusal) -> None:
    house = open_house()
    await house.desk.begin(order())
    for line in (refusal, refusal, b"a", None):
        house.script.of("t").put_nowait(line)
    done = await house.over("t")
    assert (done.state, done.attempt, len(house.script.begun)) == (State.DONE, 1, 3)


async def test_work_that_was_refused_after_it_told_that_it_began_goes_on_from_there_if_it_may(open_house) -> None:
    house = open_house()
    refusal = Unavailable("draining", reason="DRAINING", retry_after=0.001)
    for name, repeatable in (("again", True), ("acts", False)):
        await house.desk.begin(order(name, repeatable=repeatable))
        for line in (b"began", refusal, b"more", None):
            house.script.of(name).put_nowait(line)
    assert (await house.over("again")).state is State.DONE and (await house.over("acts")).state is State.FAILED
    assert [event async for event in house.events("again")] == [b"began", b"more"]
    assert sorted(house.script.begun) == [("acts", 1, []), ("again", 1, []), ("again", 1, [b"began"])]


async def test_cancelling_closes_the_work(open_house) -> None:
    house = open_house()
    await house.desk.begin(order())
    house.script.of("t").put_nowait(b"a")
    follower = house.events("t")
    await anext(follower)
    assert (await house.desk.cancel(TENANT, "t")).state is State.CANCELLED
    assert [event async for event in follower] == []
    assert house.script.closed == ["t"] and house.crew.running == 0
    with pytest.raises(NotFound):
        await house.desk.cancel("another", "t")


async def test_work_that_waits_for_an_answer_says_so_and_goes_on(open_house) -> None:
    house = open_house()
    await house.desk.begin(order(repeatable=False))
    said, states = house.script.of("t"), []
    for line in (Happening(b"asks", waits=True), b"answered", None):
        said.put_nowait(line)
    async for one in house.desk.follow(TENANT, "t"):
        states.append(one.state if isinstance(one, Ticket) else one.event)
    assert states[-1] is State.DONE and [one for one in states if isinstance(one, bytes)] == [b"asks", b"answered"]
    assert Verb.ASKED in house.record.verbs


async def test_a_server_that_stops_gives_back_what_another_goes_on_with(open_house) -> None:
    house = open_house()
    await house.desk.submit(order())
    house.script.of("t").put_nowait(b"a")
    follower = house.events("t")
    await anext(follower)
    await house.crew.drain(0)
    with pytest.raises(Unavailable, match="shutting down"):
        await anext(follower)
    with pytest.raises(Unavailable, match="shutting down"):
        await house.desk.submit(order("u"))
    assert house.record.verbs[-1] is Verb.RELEASED
    other = open_house()
    other.script.of("t").put_nowait(None)
    assert (await other.over("t")).state is State.DONE
    assert other.script.begun == [("t", 2, [b"a"])]


async def test_a_ticket_that_is_cancelled_at_another_server_ends_here(open_house) -> None:
    here, there = open_house(), open_house()
    await here.desk.begin(order())
    here.script.of("t").put_nowait(b"a")
    follower = here.events("t")
    await anext(follower)
    await there.desk.cancel(TENANT, "t")
    async with asyncio.timeout(10):
        assert [event async for event in follower] == []
        await here.script.over.wait()
    assert here.crew.running == 0


async def test_results_expire_and_waiting_tickets_run_out_of_time(open_house, clock) -> None:
    house = open_house(most=1)
    await house.desk.submit(order("a", deadline=None))
    await house.desk.submit(order("b"))
    house.script.of("a").put_nowait(b"x")
    await anext(house.events("a"))
    clock.now += 101
    await house.sweeper.round()
    assert (await house.desk.get(TENANT, "b")).state is State.CANCELLED
    assert house.record.verbs[-1] is Verb.EXPIRED
    house.script.of("a").put_nowait(None)
    assert (await house.over("a")).state is State.DONE
    await house.sweeper.round()
    assert house.record.holding is not None and house.record.holding.parked == 2
    clock.now += 60
    await house.sweeper.round()
    assert house.record.holding.parked == 0 and house.record.holding.size == 0
    for name in "ab":
        with pytest.raises(NotFound):
            await house.desk.get(TENANT, name)


async def test_whoever_waits_for_a_ticket_hears_that_its_time_is_over(open_house, clock) -> None:
    house = open_house(most=1)
    await house.desk.submit(order("a", deadline=None))
    house.script.of("a").put_nowait(b"x")
    await anext(house.events("a"))
    await house.desk.submit(order("b"))
    waiting = asyncio.create_task(house.over("b"))
    clock.now += 101
    await house.sweeper.round()
    assert (await waiting).state is State.CANCELLED


async def test_nobody_waits_longer_for_events_than_was_asked_and_nothing_stays_behind(open_house) -> None:
    house = open_house()
    await house.desk.begin(order())
    before = asyncio.all_tasks()
    until = asyncio.get_running_loop().time() + 0.01
    async with asyncio.timeout(10), aclosing(house.desk.follow(TENANT, "t", until=until)) as told:
        assert [one.state async for one in told] == [State.RUNNING]
    assert asyncio.all_tasks() <= before


async def test_a_webhook_is_tried_ever_later_until_it_answers_or_the_result_is_gone(open_house, clock) -> None:
    house = open_house()
    house.post.failures = 4
    await house.desk.begin(order(webhook=Webhook("https://hooks.example.org/", "secret"), keep=100.0))
    house.script.of("t").put_nowait(None)
    await house.over("t")
    tried = []
    for _ in range(30):
        before = len(house.post.sent)
        await house.courier.round()
        if len(house.post.sent) > before:
            tried.append(clock.now - NOW)
        clock.now += 1
    assert tried == [0, 1, 2, 4, 8]
    assert [transition.error for transition in house.record.transitions if transition.verb is Verb.TOLD] == [
        *["WEBHOOK_FAILED"] * 4, "",
    ]  # fmt: skip
    url, headers, body = house.post.sent[0]
    assert url == "https://hooks.example.org/" and b'"ticket_id":"t","state":"done"' in body
    assert headers["x-narthex-timestamp"] == str(int(NOW)) and headers["x-narthex-signature"].startswith("sha256=")


async def test_a_webhook_is_given_up_with_the_result(open_house, clock) -> None:
    house = open_house()
    house.post.failures = 100
    await house.desk.begin(order(webhook=Webhook("https://hooks.example.org/"), keep=5.0))
    house.script.of("t").put_nowait(None)
    await house.over("t")
    for _ in range(20):
        await house.courier.round()
        await house.sweeper.round()
        clock.now += 1
    assert len(house.post.sent) == 4 and "x-narthex-signature" not in house.post.sent[0][1]


async def test_events_wait_for_a_database_that_is_lost_and_nobody_sees_them_before(open_house) -> None:
    house = open_house()
    await house.desk.begin(order())
    said, follower = house.script.of("t"), house.events("t")
    said.put_nowait(b"a")
    assert await anext(follower) == b"a"
    house.store.lost = 2
    for line in (b"b", b"c"):
        said.put_nowait(line)
    assert await anext(follower) == b"b" and house.store.lost == 0
    house.store.lost = 1
    said.put_nowait(None)
    assert [event async for event in follower] == [b"c"]
    assert (await house.desk.get(TENANT, "t")).events == 3


async def test_work_ends_when_its_lease_could_not_be_kept(open_house, monkeypatch) -> None:
    house = open_house(lease=0.1)
    await house.desk.begin(order())
    house.script.of("t").put_nowait(b"a")
    await anext(house.events("t"))

    async def failing(*_: object) -> None:
        raise Unavailable("lost")

    monkeypatch.setattr(house.store, "renew", failing)
    async with asyncio.timeout(10):
        await house.script.over.wait()
    assert (await house.desk.get(TENANT, "t")).state is State.RUNNING, "another server takes it"


async def test_a_thousand_events_are_written_in_few_pieces(open_house) -> None:
    house = open_house()
    await house.desk.begin(order())
    for number in range(1000):
        house.script.of("t").put_nowait(b"%d" % number)
    house.script.of("t").put_nowait(None)
    assert [int(event) async for event in house.events("t")] == [*range(1000)]


async def test_events_that_come_fast_share_writes_and_the_first_does_not_wait(open_house) -> None:
    house = open_house()
    await house.desk.begin(order())
    said, follower, loop = house.script.of("t"), house.events("t"), asyncio.get_running_loop()
    began, count = loop.time(), 0
    while loop.time() < began + 0.1:
        said.put_nowait(b"x")
        count += 1
        await asyncio.sleep(0)
    assert await anext(follower) == b"x"
    said.put_nowait(None)
    assert len([event async for event in follower]) == count - 1
    assert 2 <= house.store.appends <= (loop.time() - began) / PACE + 2


async def test_whoever_follows_to_the_end_asks_the_store_for_nothing(open_house) -> None:
    house = open_house()
    await house.desk.begin(order())
    follower = house.events("t")
    for line in (b"a", b"b", None):
        house.script.of("t").put_nowait(line)
    assert [event async for event in follower] == [b"a", b"b"] and house.store.reads == 0


@pytest.mark.parametrize("lines", [[b"a" * 300_000], [b"a" * 60_000, b"b" * 60_000]])
async def test_a_large_result_does_not_go_past_what_the_tenant_may_have(open_house, lines: list[bytes]) -> None:
    house = open_house(size=100_000)
    for line in (*lines, None):
        house.script.of("t").put_nowait(line)
    await house.desk.begin(order())
    ended = await house.over("t")
    assert ended.state is State.FAILED and b"do not fit any more" in ended.status
    assert ended.size <= 100_000


def test_what_is_kept_of_others_is_in_no_log() -> None:
    shown = repr(order(request=b"their words", webhook=Webhook("https://hooks.example.org/", "their secret")))
    assert "their" not in shown and "hooks.example.org" in shown


async def test_whoever_watches_all_is_told_page_by_page(open_house, monkeypatch) -> None:
    house = open_house(most=1)
    for number in range(101):
        await house.desk.submit(order(f"{number:03}"))
    asked, listed = 0, house.store.list

    async def counted(*given: Any) -> Sequence[Ticket]:
        nonlocal asked
        asked += 1
        return await listed(*given)

    monkeypatch.setattr(house.store, "list", counted)
    async with aclosing(house.desk.watch(TENANT, ())) as tickets:
        told = {(await anext(tickets)).order.id}
        assert asked == 1, "nothing is held that was not told"
        while len(told) < 101:
            told.add((await anext(tickets)).order.id)
