import asyncio

import pytest
from narthex_server.tools.server import ServerState
from narthex_server.tools.upstream.backoff import pause
from narthex_server.tools.upstream.guard import Guard
from narthex_server.tools.upstream.keeper import Keeper


def keeper(connection):
    return Keeper("far", "test", connection, lambda: 0, Guard("far", None), lambda text: text.replace("s3cret", "***"))


def nothing():
    pass


async def refused():
    raise OSError("refused, s3cret")


async def test_a_call_on_a_lost_connection_is_told_why_and_when_to_come_back():
    kept = keeper(refused)
    kept.start(nothing)
    await kept.settled()
    error = kept.unavailable()
    assert error.message == "upstream 'far' is unhealthy: refused, ***"
    assert error.retry_after is not None and 0 < error.retry_after <= 0.5
    assert error.metadata == {"upstream": "far", "retry_after_ms": str(round(error.retry_after * 1000))}
    await kept.stop()


async def test_who_waits_for_a_connection_is_let_go_when_there_will_be_none():
    never = asyncio.Event()
    kept = keeper(never.wait)
    kept.start(nothing)
    waiting = asyncio.create_task(kept.settled())
    await asyncio.sleep(0)
    await kept.stop()
    async with asyncio.timeout(5):
        await waiting
    assert kept.status.state is ServerState.STOPPED and kept.unavailable().retry_after is None


@pytest.mark.parametrize("attempts, longest", [(1, 0.5), (2, 1.0), (6, 16.0), (7, 30.0), (10**6, 30.0)])
def test_pauses_grow_up_to_half_a_minute(attempts, longest):
    pauses = [pause(attempts) for _ in range(50)]
    assert longest / 2 <= min(pauses) < max(pauses) <= longest
