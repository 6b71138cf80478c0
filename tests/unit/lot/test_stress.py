"""Random work of random tenants, cancelled, late and resized under way: nothing is lost, and nobody is forgotten."""

import asyncio
import random
import time
from collections import Counter

import pytest
from narthex_server.errors import NarthexError
from narthex_server.lot.gate import Gate
from narthex_server.lot.limits import Limits
from narthex_server.lot.pool import Pool
from narthex_server.lot.terms import Priority, Terms
from narthex_server.lot.work import Work

MOST = {"slots": 8, "kv": 1000}


@pytest.mark.parametrize("seed", range(4))
async def test_no_unit_is_lost_whatever_becomes_of_the_work(seed):
    chance = random.Random(seed)
    pool = Pool("p", MOST, Limits(waiting=40, ageing=0.05, patience=0.01))
    ended: Counter[str] = Counter()

    async def work() -> None:
        cost = {"slots": 1, "kv": chance.randint(1, 600)}
        deadline = time.monotonic() + chance.uniform(0, 0.05) if chance.random() < 0.3 else None
        priority, tenant = chance.choice(list(Priority)), chance.choice("abc")
        try:
            with await pool.admit(cost, Terms(priority, deadline), tenant) as permit:
                used = pool.reading().used
                assert all(used[one] <= MOST[one] for one in used)
                await asyncio.sleep(chance.choice([0, 0, 0.001, 0.003]))
                if chance.random() < 0.5:
                    permit.correct({"slots": 1, "kv": chance.randint(1, cost["kv"])})
                    await asyncio.sleep(0)
                if chance.random() < 0.1:
                    raise ValueError
            ended["done"] += 1
        except NarthexError as error:
            ended[error.reason] += 1
        except ValueError:
            ended["failed"] += 1

    tasks: list[asyncio.Task[None]] = []
    for _ in range(400):
        tasks.append(asyncio.create_task(work()))
        match chance.random():
            case x if x < 0.15:
                chance.choice(tasks).cancel()
            case x if x < 0.2:
                pool.resize({"slots": chance.randint(4, 8), "kv": chance.randint(600, 1000)})
            case x if x < 0.4:
                await asyncio.sleep(chance.choice([0, 0, 0.002]))
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    reading = pool.reading()
    assert reading.used == {"slots": 0, "kv": 0} and reading.running == 0 and not reading.waiting
    assert ended["done"] > 20 and {"QUEUE_FULL", "failed"} <= ended.keys()


@pytest.mark.parametrize("seed", range(4))
def test_everybody_is_served_and_within_bounds(seed):
    """An overloaded gate, second by second: each tenant keeps some of every level waiting."""
    chance = random.Random(seed)
    limits = Limits(waiting=1000, ageing=10.0, patience=5.0)
    gate = Gate("p", {"units": 10}, limits)
    waits: dict[Priority, list[float]] = {priority: [] for priority in Priority}
    tenants: Counter[str] = Counter()
    running: list[tuple[float, Work]] = []
    present: Counter[tuple[str, Priority]] = Counter()
    now = 0.0

    def begin(work: Work) -> None:
        running.append((now + chance.uniform(0.5, 1.5), work))
        waits[work.priority].append(now - work.came)
        present[work.tenant, work.priority] -= 1
        tenants[work.tenant] += work.cost["units"]

    for _ in range(4000):
        now += 0.1
        for pair in [pair for pair in running if pair[0] <= now]:
            running.remove(pair)
            gate.leave(pair[1], now)
        for tenant in "abc":
            for priority in Priority:
                while present[tenant, priority] < 2:
                    present[tenant, priority] += 1
                    work = gate.enter(tenant, Terms(priority), {"units": chance.choice([1, 1, 1, 2, 8])}, now)
                    if work.admitted:
                        begin(work)
        for work in gate.settled():
            begin(work)
        assert gate.used["units"] == sum(work.cost["units"] for _, work in running) <= 10
    for priority in Priority:  # the last two of each queue may be waiting still, but not for ever
        still = max((now - work.came for work in gate.line if work.priority is priority), default=0.0)
        assert len(waits[priority]) > 20 and max(*waits[priority], still) < 2 * 60
    assert sum(waits[Priority.CRITICAL]) / len(waits[Priority.CRITICAL]) < sum(waits[Priority.LOW]) / len(
        waits[Priority.LOW]
    )
    assert max(tenants.values()) < 1.1 * min(tenants.values())
