"""Admission in an event loop."""

import asyncio
import time

import pytest
from narthex_server.errors import DeadlineExceeded, NotFound, ResourceExhausted, Unavailable
from narthex_server.lot.limits import Limits
from narthex_server.lot.lot import Lot
from narthex_server.lot.pool import Pool
from narthex_server.lot.terms import TERMS, Priority, Terms
from narthex_server.principal import CALLER, Principal

ONE = {"units": 1}


class Seen:
    """A LotObserver that remembers."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_admitted(self, pool, priority, waited):
        self.told.append(f"admitted {priority.name}")

    def on_refused(self, pool, reason):
        self.told.append(reason)

    def on_expired(self, pool, priority, waited):
        self.told.append("expired")

    def on_abandoned(self, pool, priority, waited):
        self.told.append("abandoned")


def pool(units: int = 1, waiting: int = 100, seen: Seen | None = None) -> Pool:
    return Pool("p", {"units": units}, Limits(waiting=waiting), seen)


def hold_up(seconds: float) -> None:
    """The event loop."""
    time.sleep(seconds)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nothing_is_created_where_nobody_waits(monkeypatch):
    made, loop = pool(), asyncio.get_running_loop()
    admission = made.admit(ONE)
    with monkeypatch.context() as patched, pytest.raises(StopIteration) as caught:
        patched.setattr(loop, "create_future", None)
        patched.setattr(loop, "create_task", None)
        admission.send(None)  # which never comes back to the loop
    caught.value.value.release()


async def test_a_permit_is_given_back_once():
    made = pool(2)
    with await made.admit(ONE) as permit:
        assert made.running == 1
        permit.release()
    other = await made.admit(ONE)
    permit.release()
    permit.correct({"units": 2})
    assert made.reading().used == {"units": 1} and other.cost == ONE


async def test_terms_and_tenant_are_those_of_the_running_call():
    made = pool()
    permit = await made.admit(ONE)

    async def call(name: str, priority: Priority) -> str:
        CALLER.set(Principal("k", name))
        TERMS.set(Terms(priority))
        with await made.admit(ONE):
            return name

    order: list[str] = []
    tasks = [asyncio.create_task(call(priority.name, priority)) for priority in Priority]
    for task in tasks:
        task.add_done_callback(lambda done: order.append(done.result()))
    await settle()
    assert made.reading().waiting == dict.fromkeys(reversed(Priority), 1)
    permit.release()
    await asyncio.gather(*tasks)
    assert order == ["CRITICAL", "HIGH", "NORMAL", "LOW"]


async def test_cancelling_while_it_waits_takes_nothing():
    seen = Seen()
    made = pool(seen=seen)
    permit = await made.admit(ONE)
    waiting = asyncio.create_task(made.admit(ONE))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (made.waiting, made.running) == (0, 1) and "abandoned" in seen.told
    permit.release()
    assert made.reading().used == {"units": 0}


async def test_cancelling_after_it_was_let_in_and_before_it_knows_gives_the_units_back():
    made = pool()
    permit = await made.admit(ONE)
    first, second = asyncio.create_task(made.admit(ONE)), asyncio.create_task(made.admit(ONE))
    await settle()
    permit.release()  # lets the first in, which has not run yet
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    (await second).release()
    assert made.reading().used == {"units": 0} and made.running == 0


async def test_cancelling_before_it_began_takes_nothing():
    made = pool()
    task = asyncio.create_task(made.admit(ONE))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert made.reading().used == {"units": 0}


@pytest.mark.parametrize("turns", range(12))
async def test_cancelling_at_any_point_leaves_nothing_taken(turns):
    made = pool(2)
    permit = await made.admit({"units": 2})

    async def call() -> None:
        with await made.admit(ONE, Terms(deadline=time.monotonic() + 60)) as own:
            await asyncio.sleep(0)
            own.correct({"units": 0})
            await asyncio.sleep(0)
        with await made.admit({"units": 2}):
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(call()) for _ in range(3)]
    for turn in range(turns):
        if turn == 2:
            permit.release()
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    permit.release()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert made.reading().used == {"units": 0} and made.running == made.waiting == 0


async def test_an_error_in_the_work_gives_the_units_back():
    made = pool()
    with pytest.raises(ZeroDivisionError), await made.admit(ONE):
        _ = 1 / 0
    assert made.reading().used == {"units": 0}


async def test_the_deadline_ends_the_waiting():
    seen = Seen()
    made = pool(seen=seen)
    permit = await made.admit(ONE)
    with pytest.raises(DeadlineExceeded) as caught:
        await made.admit(ONE, Terms(deadline=time.monotonic() + 0.02))
    assert caught.value.reason == "DEADLINE_WHILE_WAITING" and made.waiting == 0
    permit.release()
    assert made.reading().used == {"units": 0} and "expired" in seen.told


async def test_the_deadline_is_looked_at_again_on_waking():
    made = pool()
    permit = await made.admit(ONE)
    waiting = asyncio.create_task(made.admit(ONE, Terms(deadline=time.monotonic() + 0.02)))
    await settle()
    permit.release()  # in time, but its task comes to run too late
    hold_up(0.03)
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert made.reading().used == {"units": 0}


async def test_what_is_refused_is_counted_and_takes_nothing():
    seen = Seen()
    made = pool(1, 0, seen)
    permit = await made.admit(ONE)
    for cost in (ONE, {"units": 2}):
        with pytest.raises(ResourceExhausted):
            await made.admit(cost)
    made.drain()
    with pytest.raises(Unavailable):
        await made.admit(ONE)
    permit.release()
    assert seen.told == ["admitted NORMAL", "QUEUE_FULL", "TOO_LARGE", "DRAINING"]
    assert made.reading().used == {"units": 0}


async def test_a_lot_opens_finds_and_closes_pools():
    lot = Lot()
    made = lot.open("a", {"units": 1})
    lot.open("b", {"units": 1})
    assert lot.get("a") is made and [one.name for one in lot.pools] == ["a", "b"]
    permit = await made.admit(ONE)
    waiting = asyncio.create_task(made.admit(ONE))
    await settle()
    assert lot.open("a", {"units": 2}) is made
    (await waiting).release()
    lot.open("a", {"units": 1})
    waiting = asyncio.create_task(made.admit(ONE))
    await settle()
    lot.close("a")
    with pytest.raises(Unavailable):
        await waiting
    permit.release()
    with pytest.raises(NotFound, match="there are: b"):
        lot.get("a")
    lot.drain()
    assert lot.get("b").reading().draining
