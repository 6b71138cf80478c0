"""What durable queues of this kind got wrong before; each has a test of its name, for every store."""

import asyncio
from pathlib import Path

import pytest
from narthex_server.errors import ResourceExhausted
from narthex_server.lot.stores.store import Lease, TicketStore
from narthex_server.lot.terms import Priority
from narthex_server.lot.ticket import Outcome, Quota, State

from tests.unit.lot.stores.places import START, Place, SqlitePlace, order


async def taken(store: TicketStore, most: int = 100) -> list[str]:
    return [ticket.order.id for ticket in await store.take(most, 60)]


async def test_a_queue_that_is_kept_knows_priorities(store: TicketStore) -> None:
    for name, priority in (("low", Priority.LOW), ("normal", Priority.NORMAL), ("high", Priority.HIGH)):
        await store.add(order(name, priority=priority))
    assert await taken(store) == ["high", "normal", "low"]


async def test_work_that_is_taken_is_not_gone_when_whoever_took_it_dies(place: Place, store: TicketStore) -> None:
    dies = await place.open()
    await dies.add(order("one", request=b"what to do"))
    (ticket,) = await dies.take(1, 60)
    await dies.append(Lease("acme", "one", ticket.attempt), [b"said"])
    await dies.close()  # and never renews its lease
    assert await taken(store) == []
    place.advance(61)
    (again,) = await store.take(1, 60)
    assert (again.order.request, again.attempt) == (b"what to do", 2)
    assert await store.events("acme", "one", 0, 100) == [b"said"]


async def test_work_that_is_given_back_goes_to_its_old_place_and_not_to_the_end(store: TicketStore) -> None:
    for number in range(3):
        await store.add(order(f"{number}", submitted=START + number))
    (first,) = await store.take(1, 60)
    await store.release(Lease("acme", first.order.id, first.attempt))
    assert await taken(store) == ["0", "1", "2"]


async def test_work_that_is_given_back_while_the_lot_is_full_is_not_lost(place: Place) -> None:
    store = await place.open(Quota(open=2))
    await store.add(order("one"))
    (ticket,) = await store.take(1, 60)
    await store.add(order("two"))
    with pytest.raises(ResourceExhausted):
        await store.add(order("three"))
    await store.release(Lease("acme", "one", ticket.attempt))
    assert sorted(await taken(store)) == ["one", "two"]
    await store.close()


async def test_the_number_of_tickets_holds_however_many_come_at_once(place: Place) -> None:
    stores = [await place.open(Quota(open=5)) for _ in range(2)]
    added = (stores[number % 2].add(order(f"{number}")) for number in range(40))
    answers = await asyncio.gather(*added, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
    assert len(refused) == 35 and {error.reason for error in refused} == {"LOT_FULL"}
    assert (await stores[0].holding("acme")).open == 5
    for store in stores:
        await store.close()


async def test_a_ticket_whose_time_is_over_does_not_run_and_says_so(place: Place, store: TicketStore) -> None:
    await store.add(order("late", deadline=START + 5))
    await store.add(order("in time", deadline=START + 50))
    place.advance(6)
    assert await taken(store) == ["in time"]  # whether it was swept before or not
    assert [ticket.order.id for ticket in await store.sweep()] == ["late"]
    found = await store.get("acme", "late")
    assert found is not None and found.state is State.CANCELLED and found.ended is not None


async def test_work_that_panics_gives_its_place_back(place: Place) -> None:
    store = await place.open(Quota(open=1))
    ticket, _ = await store.add(order("one"), 60)
    await store.finish(Lease("acme", "one", ticket.attempt), Outcome(State.FAILED, 13))
    await store.add(order("two"))
    assert await taken(store) == ["two"]
    await store.close()


async def test_taking_one_writes_the_same_however_many_wait(tmp_path: Path) -> None:
    written = []
    for count in (20, 2000):
        place = SqlitePlace(tmp_path / f"{count}.db")
        store = await place.open(Quota(open=10_000))
        await asyncio.gather(*(store.add(order(f"{number:04}", request=b"r" * 500)) for number in range(count)))
        log = tmp_path / f"{count}.db-wal"
        await store.close()  # which empties the log
        store = await place.open(Quota(open=10_000))
        assert await taken(store, 1) == ["0000"]
        written.append(log.stat().st_size)
        await store.close()
    assert 0 < written[1] < written[0] + 64 * 1024, "and not the whole file"
