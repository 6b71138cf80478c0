import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from narthex_server.sync.locks import Locks


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(8):
        await asyncio.sleep(0)


@pytest.mark.parametrize("mode", ["metered", "off", "plain"])
async def test_tasks_come_in_one_by_one_and_in_order(mode):
    mutex, came, inside = Locks(mode).async_mutex("a"), [], [0]

    async def work(number: int) -> None:
        async with mutex:
            inside[0] += 1
            assert inside == [1]
            came.append(number)
            await asyncio.sleep(0)
            inside[0] -= 1

    await asyncio.gather(*(work(number) for number in range(10)))
    assert came == list(range(10))


async def test_nobody_comes_in_between_whoever_leaves_and_whoever_waited():
    mutex, came = Locks("metered").async_mutex("a"), []

    async def second() -> None:
        async with mutex:
            came.append("second")

    async with mutex:
        waiting = asyncio.create_task(second())
        await settle()
    async with mutex:
        came.append("first again")
    await waiting
    assert came == ["second", "first again"]


async def test_who_is_cancelled_with_the_lock_just_handed_over_hands_it_on():
    locks = Locks("metered")
    mutex = locks.async_mutex("a")

    async def enter() -> str:
        async with mutex:
            return "in"

    async with mutex:
        first, second = asyncio.create_task(enter()), asyncio.create_task(enter())
        await settle()
    first.cancel()  # which has the lock by now, and does not know
    assert await second == "in"
    assert first.cancelled() or (await asyncio.wait({first}) and first.cancelled())
    (reading,) = locks.readings()
    assert (reading.acquisitions, reading.contended) == (2, 2)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=25))
def test_no_cancellation_leaves_it_locked_or_out_of_order(cancellations):
    async def run() -> None:
        locks = Locks("metered")
        mutex, came, inside = locks.async_mutex("a"), [], [0]

        async def work(number: int) -> None:
            async with mutex:
                inside[0] += 1
                assert inside == [1]
                came.append(number)
                try:
                    await asyncio.sleep(0)
                finally:
                    inside[0] -= 1

        tasks = [asyncio.create_task(work(number)) for number in range(10)]
        for number, ticks in cancellations:
            tasks[number].cancel()
            for _ in range(ticks):
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.wait(tasks), 5)
        assert came == sorted(came)
        assert {number for number, task in enumerate(tasks) if not task.cancelled()} <= set(came)
        assert not mutex._waiting
        async with asyncio.timeout(5), mutex:
            pass
        (reading,) = locks.readings()
        assert reading.acquisitions == len(came) + 1

    asyncio.run(run())
