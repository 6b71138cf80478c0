"""What waits for a client that lags."""

import asyncio

import pytest
from narthex_bridge.outbox import MOST_BYTES, Outbox


@pytest.mark.parametrize("waiting", [[b"x"] * 256, [bytes(MOST_BYTES)]])
async def test_more_waits_until_the_reader_has_taken_what_is_there(waiting):
    outbox = Outbox()
    for message in waiting:
        await outbox.put(message)
    adding = asyncio.create_task(outbox.put(b"more"))
    done, _ = await asyncio.wait({adding}, timeout=0.01)
    assert not done
    assert await outbox.take(1) == waiting
    await adding
    assert await outbox.take(1) == [b"more"]


async def test_an_end_lets_those_go_that_wait_for_room():
    outbox = Outbox()
    await outbox.put(bytes(MOST_BYTES))
    adding = asyncio.create_task(outbox.put(b"more"))
    await asyncio.wait({adding}, timeout=0.01)
    outbox.close()
    await adding
    assert await outbox.take(1) == [bytes(MOST_BYTES)] and await outbox.take(1) is None


def test_what_cannot_wait_has_room_beyond_the_bound():
    outbox = Outbox()
    assert outbox.offer(bytes(MOST_BYTES)) and outbox.offer(b"a response")
