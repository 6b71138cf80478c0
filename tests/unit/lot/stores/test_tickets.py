"""What every store of tickets does."""

import asyncio
from dataclasses import replace

import pytest
from narthex_server.errors import AlreadyExists, ResourceExhausted
from narthex_server.lot.stores.store import TELLING_SECONDS, Lease, LeaseLost, TicketStore
from narthex_server.lot.terms import Priority
from narthex_server.lot.ticket import LEVEL_SECONDS, Change, Holding, Outcome, Quota, State, Ticket, Webhook

from tests.unit.lot.stores.places import START, Place, order

DONE = Outcome(State.DONE)


async def taken(store: TicketStore, most: int = 100, lease: float = 60) -> list[str]:
    return [ticket.order.id for ticket in await store.take(most, lease)]


async def begun(store: TicketStore, name: str = "one", **more: object) -> Lease:
    """A ticket that is this server's from the start."""
    ticket, _ = await store.add(order(name, **more), 60)
    return Lease(ticket.order.tenant, name, ticket.attempt)


async def test_an_order_comes_back_as_it_was_given(store: TicketStore) -> None:
    given = order(
        "one",
        principal=b'{"name":"ann"}',
        request=bytes(range(256)),
        digest=b"\0\1",
        keep=5.5,
        deadline=START + 7.25,
        priority=Priority.HIGH,
        key="a key",
        repeatable=False,
        webhook=Webhook("https://example.com/hook", "s3cret"),
    )
    added, new = await store.add(given)
    assert new
    assert added == Ticket(given, size=256)
    assert await store.get("acme", "one") == added


async def test_to_another_tenant_a_ticket_does_not_exist(store: TicketStore) -> None:
    lease = await begun(store)
    await store.append(lease, [b"a"])
    assert await store.get("other", "one") is None
    assert await store.cancel("other", "one") is None
    assert await store.events("other", "one", 0, 100) == []
    assert await store.ahead("other", "one") == 0
    assert await store.list("other", (), None, 10) == []
    assert await store.holding("other") == Holding(0, 0, 0)


class TestIdempotency:
    async def test_the_same_order_with_the_same_key_is_one_ticket(self, store: TicketStore) -> None:
        first, _ = await store.add(order("one", key="k"))
        again, new = await store.add(order("two", key="k", digest=b"one"))
        assert not new
        assert again == first
        assert await store.get("acme", "two") is None

    async def test_another_order_with_the_same_key_is_refused(self, store: TicketStore) -> None:
        await store.add(order("one", key="k"))
        with pytest.raises(AlreadyExists):
            await store.add(order("two", key="k"))

    async def test_a_key_is_its_tenants_own(self, store: TicketStore) -> None:
        await store.add(order("one", key="k"))
        _, new = await store.add(order("two", "other", key="k"))
        assert new

    async def test_no_key_promises_nothing(self, store: TicketStore) -> None:
        await store.add(order("one", digest=b"same"))
        _, new = await store.add(order("two", digest=b"same"))
        assert new

    async def test_an_id_is_taken_in_its_tenant_alone(self, store: TicketStore) -> None:
        lease = await begun(store)
        with pytest.raises(AlreadyExists) as refused:
            await store.add(order("one"))
        assert refused.value.reason == "TICKET_EXISTS"
        others, new = await store.add(order("one", "other"))
        assert new
        await store.append(lease, [b"a"])
        assert await store.get("other", "one") == others
        assert await store.events("other", "one", 0, 100) == []

    async def test_a_key_answers_while_the_lot_is_full(self, place: Place) -> None:
        store = await place.open(Quota(open=1))
        await store.add(order("one", key="k"))
        _, new = await store.add(order("two", key="k", digest=b"one"))
        assert not new
        await store.close()

    async def test_the_key_of_an_expired_ticket_is_free(self, store: TicketStore, place: Place) -> None:
        await store.finish(await begun(store, key="k", keep=10), DONE)
        place.advance(10)
        ticket, new = await store.add(order("one", key="k", digest=b"another"))
        assert new
        assert ticket.state is State.WAITING
        assert await store.holding("acme") == Holding(1, 0, 3)

    async def test_a_running_ticket_with_the_key_stays_whose_it_is(self, store: TicketStore) -> None:
        await begun(store, key="k")
        again, new = await store.add(order("two", key="k", digest=b"one"), 60)
        assert not new
        assert (again.state, again.attempt) == (State.RUNNING, 1)


class TestTaking:
    async def test_who_waits_longest_goes_first(self, store: TicketStore) -> None:
        for name, at in (("c", START + 2), ("a", START + 1), ("b", START)):
            await store.add(order(name, submitted=at))
        assert await taken(store) == ["b", "a", "c"]

    async def test_a_taken_ticket_runs_and_is_nobody_elses(self, store: TicketStore, other: TicketStore) -> None:
        await store.add(order("one"))
        (ticket,) = await store.take(1, 60)
        assert (ticket.state, ticket.attempt, ticket.version, ticket.started) == (State.RUNNING, 1, 2, START)
        assert ticket.order.request == b"one"
        assert await taken(other) == []
        assert await store.get("acme", "one") == ticket

    async def test_many_of_one_tenant_hold_up_no_other(self, store: TicketStore, place: Place) -> None:
        for tenant, names in (("acme", ("one", "two", "three")), ("umbrella", ("four",))):
            for name in names:
                await store.add(order(name, tenant=tenant, webhook=Webhook("https://example.com")))
                await store.cancel(tenant, name)
                place.advance(1)
        assert [one.order.id for one in await store.owed(2)] == ["one", "four"]
        assert [one.order.id for one in await store.owed(2)] == ["two", "three"]

    async def test_at_most_so_many(self, store: TicketStore) -> None:
        for number in range(5):
            await store.add(order(str(number)))
        assert await taken(store, 3) == ["0", "1", "2"]
        assert await taken(store, 0) == []
        assert await taken(store, 3) == ["3", "4"]

    async def test_a_level_of_priority_counts_as_time_waited(self, store: TicketStore) -> None:
        await store.add(order("old", submitted=START))
        await store.add(order("high", submitted=START + LEVEL_SECONDS - 1, priority=Priority.HIGH))
        await store.add(order("later high", submitted=START + LEVEL_SECONDS + 1, priority=Priority.HIGH))
        await store.add(order("critical", submitted=START + LEVEL_SECONDS, priority=Priority.CRITICAL))
        await store.add(order("low", submitted=START, priority=Priority.LOW))
        await store.add(order("new", submitted=START + LEVEL_SECONDS - 1))
        assert await taken(store) == ["critical", "high", "old", "later high", "new", "low"]

    async def test_urgent_work_never_starves_what_has_waited(self, store: TicketStore, place: Place) -> None:
        await store.add(order("patient", priority=Priority.LOW))
        turns = 0
        while True:
            await store.add(order(f"urgent {turns}", submitted=START + turns * 100, priority=Priority.CRITICAL))
            turns += 1
            (name,) = await taken(store, 1)
            if name == "patient":
                break
            await store.finish(Lease("acme", name, 1), DONE)
            place.advance(100)
        # equal ranks go by id, and "patient" comes before "urgent"
        assert (turns - 1) * 100 == 3 * LEVEL_SECONDS

    async def test_who_has_fewer_running_goes_first(self, store: TicketStore) -> None:
        for number in range(4):
            await store.add(order(f"a{number}", "flood", submitted=START + number))
        for number in range(2):
            await store.add(order(f"b{number}", "modest", submitted=START + 100 + number))
        await store.add(order("c0", "late", submitted=START + 200))
        assert await taken(store) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]

    async def test_what_runs_already_counts(self, store: TicketStore, other: TicketStore) -> None:
        for number in range(3):
            await store.add(order(f"a{number}", "flood", submitted=START + number))
        assert await taken(store, 2) == ["a0", "a1"]
        await store.add(order("b0", "modest", submitted=START + 100, priority=Priority.LOW))
        assert await taken(other) == ["b0", "a2"]

    async def test_what_waits_for_input_does_not_count(self, store: TicketStore) -> None:
        await store.move(await begun(store, "a0"), State.INPUT_REQUIRED)
        await store.add(order("a1", submitted=START))
        await store.add(order("b0", "modest", submitted=START + 1))
        assert await taken(store) == ["a1", "b0"]

    async def test_what_is_past_its_deadline_is_not_taken(self, store: TicketStore, place: Place) -> None:
        await store.add(order("late", deadline=START + 10))
        await store.add(order("next", submitted=START + 1))
        await store.add(order("in time", "other", deadline=START + 11))
        place.advance(10)
        assert await taken(store) == ["in time", "next"]

    async def test_a_tenants_overdue_ticket_does_not_pull_its_others_forward(
        self, store: TicketStore, place: Place
    ) -> None:
        await store.add(order("late", "a", submitted=START - 100, deadline=START + 1))
        await store.add(order("young", "a", submitted=START + 50))
        await store.add(order("elder", "b", submitted=START + 20))
        await store.add(order("eldest", "c", submitted=START + 10))
        place.advance(1)
        assert await taken(store) == ["eldest", "elder", "young"]

    async def test_many_tenants_take_turns(self, store: TicketStore) -> None:
        for turn in range(3):
            for tenant in range(20):
                await store.add(order(f"{turn} {tenant:02}", f"t{tenant}", submitted=START + turn + tenant / 100))
        expected = [f"{turn} {tenant:02}" for turn in range(3) for tenant in range(20)]
        assert [name for _ in range(12) for name in await taken(store, 5)] == expected


class TestLeases:
    async def test_work_whose_lease_ran_out_is_taken_again(
        self, store: TicketStore, other: TicketStore, place: Place
    ) -> None:
        lease = await begun(store)
        place.advance(59)
        assert await taken(other) == []
        place.advance(1)
        (again,) = await other.take(1, 60)
        assert (again.attempt, again.state, again.started) == (2, State.RUNNING, START)
        for stale in (
            store.append(lease, [b"a"]),
            store.move(lease, State.INPUT_REQUIRED),
            store.finish(lease, DONE),
            store.release(lease),
        ):
            with pytest.raises(LeaseLost):
                await stale
        assert await store.renew([lease], 60) == []
        assert await other.append(Lease("acme", "one", 2), [b"b"]) == 1

    async def test_a_lease_is_renewed(self, store: TicketStore, place: Place) -> None:
        lease, gone = await begun(store), Lease("acme", "never", 1)
        place.advance(59)
        assert list(await store.renew([lease, gone], 60)) == [lease]
        place.advance(59)
        assert await taken(store) == []

    async def test_a_lease_that_nobody_took_is_still_good(self, store: TicketStore, place: Place) -> None:
        lease = await begun(store)
        place.advance(1000)
        assert await store.append(lease, [b"a"]) == 1
        assert list(await store.renew([lease], 60)) == [lease]
        assert await taken(store) == []

    async def test_what_waits_for_input_is_leased_too(self, store: TicketStore, place: Place) -> None:
        await store.move(await begun(store), State.INPUT_REQUIRED)
        place.advance(60)
        (again,) = await store.take(1, 60)
        assert (again.attempt, again.state) == (2, State.RUNNING)

    async def test_lost_work_keeps_its_place_among_what_waits(self, store: TicketStore, place: Place) -> None:
        await begun(store, "lost", submitted=START + 5)
        await store.add(order("before", submitted=START))
        await store.add(order("after", submitted=START + 9))
        place.advance(60)
        assert await taken(store) == ["before", "lost", "after"]

    async def test_lost_work_does_not_count_as_running(self, store: TicketStore, place: Place) -> None:
        await begun(store, "lost", submitted=START + 5)
        await store.add(order("other", "modest", submitted=START + 9))
        place.advance(60)
        assert await taken(store) == ["lost", "other"]

    async def test_released_work_waits_in_its_old_place(self, store: TicketStore) -> None:
        await store.add(order("one", submitted=START))
        await store.add(order("two", submitted=START + 1))
        (ticket,) = await store.take(1, 60)
        lease = Lease("acme", "one", ticket.attempt)
        await store.release(lease)
        waiting = await store.get("acme", "one")
        assert waiting is not None
        assert (waiting.state, waiting.attempt, waiting.version) == (State.WAITING, 1, 3)
        with pytest.raises(LeaseLost):
            await store.append(lease, [b"a"])
        assert [(one.order.id, one.attempt) for one in await store.take(2, 60)] == [("one", 2), ("two", 1)]

    async def test_many_servers_share_work_without_doing_any_twice(
        self, store: TicketStore, other: TicketStore
    ) -> None:
        await asyncio.gather(*(store.add(order(f"{number:03}")) for number in range(100)))
        rounds = await asyncio.gather(*(one.take(3, 60) for one in (store, other) * 20))
        rounds.append(await store.take(100, 60))  # what each passed over because the other was just taking it
        names = [ticket.order.id for tickets in rounds for ticket in tickets]
        assert sorted(names) == [f"{number:03}" for number in range(100)]


class TestEvents:
    async def test_events_are_numbered_from_one(self, store: TicketStore) -> None:
        lease = await begun(store)
        assert await store.append(lease, [b"a", b"b"]) == 2
        assert await store.append(lease, []) == 2
        assert await store.append(lease, [b""]) == 3
        assert list(await store.events("acme", "one", 0, 100)) == [b"a", b"b", b""]
        assert list(await store.events("acme", "one", 1, 100)) == [b"b", b""]
        assert list(await store.events("acme", "one", 3, 100)) == []
        assert list(await store.events("acme", "one", 4, 100)) == []
        ticket = await store.get("acme", "one")
        assert ticket is not None
        assert (ticket.events, ticket.size, ticket.version) == (3, 5, 1)

    async def test_as_many_as_fit_and_at_least_one(self, store: TicketStore) -> None:
        await store.append(await begun(store), [b"12345", b"678", b"90"])
        assert list(await store.events("acme", "one", 0, 1)) == [b"12345"]
        assert list(await store.events("acme", "one", 0, 7)) == [b"12345"]
        assert list(await store.events("acme", "one", 0, 8)) == [b"12345", b"678"]
        assert list(await store.events("acme", "one", 1, 5)) == [b"678", b"90"]

    async def test_tickets_do_not_see_each_others_events(self, store: TicketStore) -> None:
        one, two = await begun(store, "one"), await begun(store, "two")
        await store.append(one, [b"a"])
        await store.append(two, [b"b"])
        await store.append(one, [b"c"])
        assert list(await store.events("acme", "one", 0, 100)) == [b"a", b"c"]
        assert list(await store.events("acme", "two", 0, 100)) == [b"b"]

    async def test_a_further_attempt_goes_on_behind_the_events_of_the_first(
        self, store: TicketStore, place: Place
    ) -> None:
        await store.append(await begun(store), [b"a"])
        place.advance(60)
        (again,) = await store.take(1, 60)
        assert again.events == 1
        assert await store.append(Lease("acme", "one", 2), [b"b"]) == 2


class TestEnding:
    async def test_the_end_and_the_last_events_come_together(self, store: TicketStore, place: Place) -> None:
        lease = await begun(store)
        await store.append(lease, [b"a"])
        place.advance(5)
        ended = await store.finish(lease, Outcome(State.FAILED, 13, b"status"), [b"b", b"c"])
        assert (ended.state, ended.code, ended.status) == (State.FAILED, 13, b"status")
        assert (ended.ended, ended.expires) == (START + 5, START + 5 + 3600)
        assert (ended.events, ended.size, ended.version) == (3, 6, 2)
        whole = await store.get("acme", "one")
        assert whole is not None
        assert replace(whole, order=ended.order) == ended
        assert list(await store.events("acme", "one", 0, 100)) == [b"a", b"b", b"c"]
        with pytest.raises(LeaseLost):
            await store.finish(lease, DONE)

    async def test_a_cancelled_ticket_keeps_its_events(self, store: TicketStore) -> None:
        lease = await begun(store)
        await store.append(lease, [b"a"])
        cancelled = await store.cancel("acme", "one")
        assert cancelled is not None
        assert (cancelled.state, cancelled.ended, cancelled.expires) == (State.CANCELLED, START, START + 3600)
        with pytest.raises(LeaseLost):
            await store.append(lease, [b"b"])
        assert list(await store.events("acme", "one", 0, 100)) == [b"a"]

    async def test_what_waits_can_be_cancelled(self, store: TicketStore) -> None:
        await store.add(order("one"))
        await store.add(order("two"))
        await store.cancel("acme", "one")
        assert await taken(store) == ["two"]

    async def test_cancelling_what_is_over_throws_the_result_away(self, store: TicketStore, place: Place) -> None:
        lease = await begun(store, key="k")
        await store.finish(lease, DONE, [b"a"])
        assert await store.holding("acme") == Holding(0, 1, 4)
        thrown = await store.cancel("acme", "one")
        assert thrown is not None
        assert (thrown.state, thrown.events, thrown.size, thrown.expires) == (State.DONE, 0, 0, START)
        assert await store.holding("acme") == Holding(0, 0, 0)
        assert await store.get("acme", "one") is None
        assert await store.events("acme", "one", 0, 100) == []
        assert await store.cancel("acme", "one") is None
        _, new = await store.add(order("two", key="k"))
        assert new

    async def test_a_result_expires(self, store: TicketStore, place: Place) -> None:
        await store.finish(await begun(store, keep=10), DONE, [b"a"])
        place.advance(9)
        assert await store.sweep() == []
        assert await store.get("acme", "one") is not None
        place.advance(1)
        assert await store.get("acme", "one") is None
        assert await store.list("acme", (), None, 10) == []
        assert await store.events("acme", "one", 0, 100) == []
        assert await store.holding("acme") == Holding(0, 0, 4)
        assert await store.sweep() == []
        assert await store.holding("acme") == Holding(0, 0, 0)

    async def test_many_results_expire_at_once(self, store: TicketStore, place: Place) -> None:
        async def done(name: str) -> None:
            await store.finish(await begun(store, name, tenant=f"t{name}", keep=10), DONE, [b"a" * 1000] * 3)

        await asyncio.gather(*(done(str(number)) for number in range(300)))
        place.advance(10)
        assert await store.sweep() == []
        assert await store.holding("t7") == Holding(0, 0, 0)

    async def test_what_waits_past_its_deadline_is_cancelled(self, store: TicketStore, place: Place) -> None:
        await store.add(order("waits", deadline=START + 10))
        await begun(store, "runs", deadline=START + 10)
        await store.add(order("in time", deadline=START + 11))
        place.advance(10)
        (ended,) = await store.sweep()
        assert (ended.order.id, ended.state, ended.ended) == ("waits", State.CANCELLED, START + 10)
        place.advance(50)
        assert {one.order.id for one in await store.sweep()} == {"runs", "in time"}
        assert await store.sweep() == []


class TestQuota:
    async def test_so_many_open_tickets(self, place: Place) -> None:
        store = await place.open(Quota(open=2))
        lease = await begun(store, "one")
        await store.add(order("two"))
        with pytest.raises(ResourceExhausted) as refused:
            await store.add(order("three"))
        assert refused.value.reason == "LOT_FULL"
        assert await store.get("acme", "three") is None
        await store.add(order("three", "other"))
        await store.finish(lease, DONE)
        await store.add(order("four"))
        await store.close()

    async def test_so_many_bytes(self, place: Place) -> None:
        store = await place.open(Quota(size=10))
        lease = await begun(store, request=b"1234")
        with pytest.raises(ResourceExhausted) as refused:
            await store.add(order("two", request=b"1234567"))
        assert refused.value.reason == "LOT_FULL"
        await store.append(lease, [b"567"])
        with pytest.raises(ResourceExhausted) as refused:
            await store.append(lease, [b"8901"])
        assert refused.value.reason == "LOT_FULL"
        assert await store.append(lease, [b"890"]) == 2
        ended = await store.finish(lease, DONE, [b"the end"])
        assert ended.size == 17
        with pytest.raises(ResourceExhausted):
            await store.add(order("three", request=b""))
        await store.close()

    async def test_what_is_refused_leaves_nothing(self, place: Place) -> None:
        store = await place.open(Quota(size=10))
        lease = await begun(store, request=b"1234")
        with pytest.raises(ResourceExhausted):
            await store.append(lease, [b"5", b"678901"])
        assert await store.events("acme", "one", 0, 100) == []
        assert await store.holding("acme") == Holding(1, 0, 4)
        await store.close()


class TestLooking:
    async def test_the_newest_first_page_by_page(self, store: TicketStore) -> None:
        for name, at in (("a", START), ("c", START + 1), ("b", START + 1), ("d", START + 2)):
            await store.add(order(name, submitted=at))
        first = await store.list("acme", (), None, 2)
        assert [(one.order.id, one.order.request) for one in first] == [("d", b""), ("c", b"")]
        rest = await store.list("acme", (), (START + 1, "c"), 2)
        assert [one.order.id for one in rest] == ["b", "a"]
        assert await store.list("acme", (), (START, "a"), 2) == []

    async def test_only_some_states(self, store: TicketStore) -> None:
        await begun(store, "runs")
        await store.add(order("waits"))
        await store.finish(await begun(store, "done"), DONE)
        running = await store.list("acme", {State.RUNNING}, None, 10)
        assert [one.order.id for one in running] == ["runs"]
        some = await store.list("acme", {State.WAITING, State.DONE}, None, 10)
        assert [one.order.id for one in some] == ["waits", "done"]

    async def test_how_many_go_before(self, store: TicketStore) -> None:
        for number in range(5):
            await store.add(order(f"a{number}", "flood", submitted=START + number))
        await store.add(order("b0", "modest", submitted=START + 10))
        await store.add(order("b1", "modest", submitted=START + 11))
        assert await store.ahead("modest", "b0") == 1
        assert await store.ahead("modest", "b1") == 3
        assert await store.ahead("flood", "a4") == 4
        await store.take(1, 60)
        assert await store.ahead("flood", "a0") == 0
        assert await store.ahead("flood", "a4") == 3

    async def test_what_a_tenant_holds(self, store: TicketStore) -> None:
        await store.add(order("waits", request=b"12"))
        await begun(store, "runs", request=b"345")
        await store.finish(await begun(store, "done", request=b"6"), DONE, [b"78", b"9"])
        await store.add(order("others", "other", request=b"123"))
        assert await store.holding("acme") == Holding(2, 1, 9)


class TestChanges:
    async def test_every_change_is_told(self, store: TicketStore) -> None:
        changes = store.changes()
        lease = await begun(store)
        assert await anext(changes) == Change("acme", "one", 1, 0)
        await store.append(lease, [b"a", b"b"])
        assert await anext(changes) == Change("acme", "one", 1, 2)
        await store.move(lease, State.INPUT_REQUIRED)
        assert await anext(changes) == Change("acme", "one", 2, 2)
        await store.finish(lease, DONE, [b"c"])
        assert await anext(changes) == Change("acme", "one", 3, 3)
        await store.cancel("acme", "one")
        assert await anext(changes) == Change("acme", "one", 4, 0)

    async def test_a_slow_listener_hears_the_last_of_each(self, store: TicketStore) -> None:
        changes = store.changes()
        one, two = await begun(store, "one"), await begun(store, "two")
        for event in (b"a", b"b", b"c"):
            await store.append(one, [event])
            await store.append(two, [event])
        heard: dict[str, int] = {}
        while heard.get("one") != 3 or heard.get("two") != 3:
            change = await anext(changes)
            heard[change.id] = change.events

    async def test_another_server_hears_in_a_bounded_time(self, store: TicketStore, other: TicketStore) -> None:
        changes = other.changes()
        lease = await begun(store)
        async with asyncio.timeout(5):
            assert await anext(changes) == Change("acme", "one", 1, 0)
            await store.append(lease, [b"a"])
            assert await anext(changes) == Change("acme", "one", 1, 1)
            await store.finish(lease, DONE)
            assert await anext(changes) == Change("acme", "one", 2, 1)

    async def test_what_was_there_before_is_no_change(self, place: Place, store: TicketStore) -> None:
        await begun(store, "before")
        late = await place.open()
        changes = late.changes()
        await begun(store, "after")
        async with asyncio.timeout(5):
            assert (await anext(changes)).id == "after"
        await late.close()

    async def test_refused_work_is_no_change(self, place: Place) -> None:
        store = await place.open(Quota(open=1))
        changes = store.changes()
        await store.add(order("one"))
        with pytest.raises(ResourceExhausted):
            await store.add(order("two"))
        await store.cancel("acme", "one")
        heard = [await anext(changes)]
        while heard[-1].version < 2:
            heard.append(await anext(changes))
        assert {change.id for change in heard} == {"one"}
        await store.close()


class TestWebhooks:
    async def test_who_is_owed_a_word(self, store: TicketStore, place: Place) -> None:
        await store.finish(await begun(store, "silent"), DONE)
        lease = await begun(store, "one", webhook=Webhook("https://example.com", "s"))
        assert await store.owed(10) == []
        await store.finish(lease, DONE)
        (owed,) = await store.owed(10)
        assert (owed.order.id, owed.order.webhook) == ("one", Webhook("https://example.com", "s"))
        await store.told("acme", "one", None)
        place.advance(TELLING_SECONDS * 10)
        assert await store.owed(10) == []

    async def test_one_server_at_a_time_tells(self, store: TicketStore, other: TicketStore, place: Place) -> None:
        await store.add(order("one", webhook=Webhook("https://example.com")))
        await store.cancel("acme", "one")
        assert [one.order.id for one in await store.owed(10)] == ["one"]
        assert await other.owed(10) == []
        place.advance(TELLING_SECONDS)
        assert [one.order.id for one in await other.owed(10)] == ["one"]

    async def test_it_is_tried_again_later(self, store: TicketStore, place: Place) -> None:
        await store.add(order("one", webhook=Webhook("https://example.com")))
        await store.cancel("acme", "one")
        await store.owed(10)
        await store.told("acme", "one", 5)
        place.advance(4)
        assert await store.owed(10) == []
        place.advance(1)
        assert len(await store.owed(10)) == 1

    async def test_nothing_is_owed_for_what_has_expired(self, store: TicketStore, place: Place) -> None:
        await store.add(order("one", webhook=Webhook("https://example.com"), keep=5))
        await store.cancel("acme", "one")
        place.advance(5)
        assert await store.owed(10) == []

    async def test_at_most_so_many(self, store: TicketStore) -> None:
        for name in ("one", "two", "three"):
            await store.add(order(name, webhook=Webhook("https://example.com")))
            await store.cancel("acme", name)
        assert len(await store.owed(2)) == 2
        assert len(await store.owed(2)) == 1


async def test_everything_is_there_when_it_is_opened_again(place: Place) -> None:
    store = await place.open()
    lease = await begun(store)
    await store.append(lease, [b"a"])
    await store.add(order("two"))
    await store.close()
    store = await place.open()
    assert await store.append(lease, [b"b"]) == 2
    assert list(await store.events("acme", "one", 0, 100)) == [b"a", b"b"]
    assert await taken(store) == ["two"]
    await store.close()
