"""What schedulers of this kind got wrong before; each has a test of its name. Of durable queues: `stores/`."""

import asyncio
import time

import pytest
from narthex_server.errors import DeadlineExceeded, ResourceExhausted
from narthex_server.lot.limits import Limits
from narthex_server.lot.lot import Lot
from narthex_server.lot.pool import Pool
from narthex_server.lot.terms import Priority, Terms
from narthex_server.metrics.lot import LotMetrics, LotReadings
from prometheus_client import CollectorRegistry, generate_latest

ONE = {"units": 1}


def hold_up(seconds: float) -> None:
    """The event loop."""
    time.sleep(seconds)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def held(units: int = 1, waiting: int = 100):
    """A pool all of whose units one permit has."""
    pool = Pool("p", {"units": units}, Limits(waiting=waiting))
    return pool, await pool.admit({"units": units})


async def test_a_deadline_is_checked_on_waking_so_that_expired_work_does_not_run():
    pool, permit = await held()
    waiting = asyncio.create_task(pool.admit(ONE, Terms(deadline=time.monotonic() + 0.02)))
    await settle()
    hold_up(0.03)  # the loop is busy, so that the timer has not run when the units come back
    permit.release()
    with pytest.raises(DeadlineExceeded):  # and its owner is told so
        await waiting
    assert pool.reading().used == {"units": 0}


async def test_work_that_never_fits_is_refused_and_not_queued_for_ever():
    pool, _ = await held(10)
    with pytest.raises(ResourceExhausted) as caught:
        await pool.admit({"units": 11})
    assert (caught.value.reason, caught.value.metadata["maximum"]) == ("TOO_LARGE", "10")
    waiting = asyncio.create_task(pool.admit({"units": 8}))
    await settle()
    pool.resize({"units": 7})  # nor does it wait on where it cannot fit any more
    with pytest.raises(ResourceExhausted):
        await waiting


async def test_a_large_head_of_the_line_does_not_hold_up_smaller_work_that_fits():
    pool = Pool("p", {"units": 10})
    await pool.admit({"units": 6})
    large = asyncio.create_task(pool.admit({"units": 8}))
    await settle()
    assert (await asyncio.wait_for(pool.admit({"units": 4}), 5)).cost == {"units": 4}
    large.cancel()


async def test_waiting_work_keeps_its_place_and_is_never_put_back_into_a_full_line():
    pool, permit = await held(2, waiting=2)
    first, second = (asyncio.create_task(pool.admit({"units": 2})) for _ in range(2))
    await settle()
    with pytest.raises(ResourceExhausted):
        await pool.admit(ONE)
    pool.resize({"units": 2})  # has the line looked at, though nobody fits
    permit.correct({"units": 1})
    permit.release()
    (await first).release()
    (await second).release()


async def test_the_depth_holds_however_many_come_at_once():
    pool, permit = await held(1, waiting=5)
    tasks = [asyncio.create_task(pool.admit(ONE)) for _ in range(50)]
    await settle()
    refused = [task for task in tasks if task.done()]
    assert pool.waiting == 5 and len(refused) == 45
    assert all(isinstance(task.exception(), ResourceExhausted) for task in refused)
    permit.release()
    for task in tasks:
        if task not in refused:
            (await task).release()


async def test_an_order_that_is_not_first_come_first_served_is_kept_all_the_way():
    pool, permit = await held()
    order: list[str] = []

    async def run(name: str, priority: Priority) -> None:
        with await pool.admit(ONE, Terms(priority)):
            order.append(name)

    tasks = [
        asyncio.create_task(run(name, priority))
        for name, priority in (("low", Priority.LOW), ("normal", Priority.NORMAL), ("high", Priority.HIGH))
    ]
    await settle()
    permit.release()
    await asyncio.gather(*tasks)
    assert order == ["high", "normal", "low"]


async def test_work_that_panics_gives_its_units_back():
    pool = Pool("p", {"units": 1})

    async def panic() -> None:
        with await pool.admit(ONE):
            raise RecursionError

    for _ in range(3):
        with pytest.raises(RecursionError):
            await panic()
    assert pool.reading().used == {"units": 0}


async def test_units_are_held_against_the_capacity_on_every_way_in():
    pool = Pool("p", {"units": 3})
    most = 0

    async def run() -> None:
        nonlocal most
        with await pool.admit({"units": 2}):
            most = max(most, pool.reading().used["units"])
            await asyncio.sleep(0)

    await asyncio.gather(*(run() for _ in range(20)))
    assert most == 2


async def test_nobody_waits_without_a_way_out():
    pool, _ = await held()
    waiting = asyncio.create_task(pool.admit(ONE))
    await settle()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 0.01)
    assert pool.waiting == 0  # and no thread, timer or task stays behind
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_refusals_that_are_declared_happen():
    pool, _ = await held(1, waiting=0)
    with pytest.raises(ResourceExhausted) as full:
        await pool.admit(ONE)
    with pytest.raises(ResourceExhausted) as large:
        await pool.admit({"units": 2})
    assert (full.value.reason, large.value.reason) == ("QUEUE_FULL", "TOO_LARGE")
    assert full.value.retry_after and large.value.retry_after is None


async def test_what_kind_of_resource_is_meant_counts():
    pool = Pool("p", {"cpu": 1, "io": 1})
    with await pool.admit({"cpu": 1}), await pool.admit({"io": 1}):
        assert pool.reading().used == {"cpu": 1, "io": 1}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.admit({"cpu": 1}), 0.01)


async def test_all_of_it_can_be_seen_from_outside():
    registry = CollectorRegistry()
    lot = Lot(LotMetrics(registry))
    LotReadings(registry, lambda: [pool.reading() for pool in lot.pools])
    pool = lot.open("model/m", {"slots": 1}, Limits(waiting=1))
    permit = await pool.admit({"slots": 1})
    late = asyncio.create_task(pool.admit({"slots": 1}, Terms(Priority.HIGH, time.monotonic() + 0.03)))
    await settle()
    for cost in ({"slots": 1}, {"slots": 2}):
        with pytest.raises(ResourceExhausted):
            await pool.admit(cost)
    page = generate_latest(registry).decode()
    for line in (
        'narthex_lot_units{pool="model/m",resource="slots"} 1.0',
        'narthex_lot_capacity{pool="model/m",resource="slots"} 1.0',
        'narthex_lot_running{pool="model/m"} 1.0',
        'narthex_lot_waiting{pool="model/m",priority="high"} 1.0',
        'narthex_lot_waiting{pool="model/m",priority="low"} 0.0',
        'narthex_lot_admitted_total{pool="model/m"} 1.0',
        'narthex_lot_refused_total{pool="model/m",reason="QUEUE_FULL"} 1.0',
        'narthex_lot_refused_total{pool="model/m",reason="TOO_LARGE"} 1.0',
        'narthex_lot_wait_seconds_count{pool="model/m",priority="normal"} 1.0',
        'narthex_lot_draining{pool="model/m"} 0.0',
    ):
        assert line in page
    with pytest.raises(DeadlineExceeded):
        await late
    permit.release()
    assert 'narthex_lot_expired_total{pool="model/m"} 1.0' in generate_latest(registry).decode()
