import asyncio

import pytest
from narthex_server.tools.upstream.clock import Clock


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_time_runs_out():
    with pytest.raises(TimeoutError):
        async with Clock(0.01, None):
            await asyncio.Event().wait()


async def test_a_deadline_comes_first_where_it_is_earlier_and_also_in_a_pause():
    with pytest.raises(TimeoutError):
        async with Clock(60, now() + 0.01):
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        async with Clock(60, now() + 0.01) as clock:
            with clock.paused():
                await asyncio.Event().wait()


async def test_a_pause_takes_nothing_and_the_rest_runs_after_the_last_one():
    with pytest.raises(TimeoutError):
        async with Clock(0.05, None) as clock:
            with clock.paused():
                with clock.paused():
                    pass
                paused = now()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await asyncio.Event().wait()
                assert now() - paused >= 0.09, "the pause outlived the clock"
            await asyncio.Event().wait()


async def test_a_pause_may_end_after_the_block():
    async with Clock(60, None) as clock:
        pause = clock.paused()
        pause.__enter__()
    pause.__exit__(None, None, None)
