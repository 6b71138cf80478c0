import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from narthex_server.sync.async_condition import AsyncCondition
from narthex_server.sync.locks import Locks

from tests.unit.sync.test_async_mutex import settle


async def waiting(condition: AsyncCondition, count: int, woken: list[int]) -> list[asyncio.Task[None]]:
    async def wait(number: int) -> None:
        async with condition:
            await condition.wait()
            woken.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(count)]
    await settle()
    return tasks


@pytest.mark.parametrize("mode", ["metered", "off", "plain"])
async def test_as_many_as_were_called_wake_in_order(mode):
    condition, woken = Locks(mode).async_condition("a"), []
    tasks = await waiting(condition, 5, woken)
    async with condition:
        condition.notify(2)
    await settle()
    assert woken == [0, 1]
    async with condition:
        condition.notify_all()
    await asyncio.gather(*tasks)
    assert woken == [0, 1, 2, 3, 4]


async def test_a_predicate_is_waited_for():
    condition, ready = Locks("metered").async_condition("a"), []

    async def wait() -> int:
        async with condition:
            return await condition.wait_for(lambda: sum(ready))

    task = asyncio.create_task(wait())
    for number in (0, 0, 3):
        await settle()
        assert not task.done()
        async with condition:
            ready.append(number)
            condition.notify()
    assert await task == 3


async def test_a_call_that_reaches_a_cancelled_task_wakes_another():
    condition, woken = Locks("metered").async_condition("a"), []
    first, second = await waiting(condition, 2, woken)
    async with condition:
        condition.notify()
        await asyncio.sleep(0)
        first.cancel()
    await asyncio.wait({first})
    await second
    assert (first.cancelled(), woken) == (True, [1])


async def test_who_is_cancelled_while_it_waits_has_the_lock_until_it_leaves():
    condition = Locks("metered").async_condition("a")

    async def wait() -> None:
        async with condition:
            try:
                await condition.wait()
            finally:
                owned.append(condition._mutex._free)

    owned: list[bool] = []
    task = asyncio.create_task(wait())
    await settle()
    async with condition:
        for _ in range(3):
            task.cancel()
            await settle()
        assert not task.done()
    await asyncio.wait({task})
    assert (task.cancelled(), owned) == (True, [False])
    async with asyncio.timeout(5), condition:
        pass


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), max_size=20))
def test_things_made_are_taken_whoever_is_cancelled(cancellations):
    async def run() -> None:
        condition, made, taken = Locks("metered").async_condition("a"), [0], [0]

        async def take() -> None:
            async with condition:
                await condition.wait_for(lambda: made[0])
                made[0] -= 1
                taken[0] += 1

        async def make() -> None:
            async with condition:
                made[0] += 1
                condition.notify()

        tasks = [asyncio.create_task(take()) for _ in range(8)]
        makers = [asyncio.create_task(make()) for _ in range(4)]
        for number, ticks in cancellations:
            tasks[number].cancel()
            for _ in range(ticks):
                await asyncio.sleep(0)
        await asyncio.gather(*makers)
        for _ in range(60):
            await asyncio.sleep(0)
        there = [task for task in tasks if not task.done()]
        assert not (there and made[0]), "something lies there, and somebody waits for it"
        for task in there:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert taken[0] + made[0] == 4

    asyncio.run(run())
