"""Work in progress, and its end."""

import asyncio

import pytest
from narthex_bridge.faces.work import Work
from narthex_bridge.protocol.failures import BackendError


async def test_work_within_the_grace_finishes_and_no_more_is_taken():
    work, go = Work(2), asyncio.Event()

    async def wait():
        await go.wait()
        return 7

    running = asyncio.create_task(work.run(wait()))
    await asyncio.sleep(0)
    draining = asyncio.create_task(work.drain(5))
    await asyncio.sleep(0)
    with pytest.raises(BackendError, match="shutting down"):
        await work.run(wait())
    go.set()
    await draining
    assert await running == 7


async def test_work_beyond_the_grace_ends_with_a_failure():
    work = Work(1)
    running = asyncio.create_task(work.run(asyncio.Event().wait()))
    await asyncio.sleep(0)
    with pytest.raises(BackendError) as caught:
        await work.run(asyncio.Event().wait())
    assert caught.value.reason == "MAX_CALLS"
    await work.drain(0)
    with pytest.raises(BackendError, match="shutting down"):
        await running
