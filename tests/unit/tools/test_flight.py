import asyncio

import mcp_types as types
import pytest
from narthex_server.tools.tool import Log, TextDelta
from narthex_server.tools.upstream import flight as module
from narthex_server.tools.upstream.clock import Clock
from narthex_server.tools.upstream.flight import MAX_WAITING, Flight


@pytest.fixture
async def flight(context):
    async with Clock(60, None) as clock:
        yield Flight(context, clock)


async def never(begun: asyncio.Event, ended: asyncio.Event) -> None:
    begun.set()
    try:
        await asyncio.Event().wait()
    finally:
        ended.set()


async def test_work_that_ends_gives_its_answer(flight):
    async def work() -> str:
        return "answer"

    assert await flight.attend(work()) == "answer" and flight.attended == 0


@pytest.mark.parametrize("why", ["over", "patience", "cancelled"])
async def test_work_stops_when_nobody_waits_for_it(flight, why, monkeypatch):
    if why == "patience":
        monkeypatch.setattr(module, "INPUT_TIMEOUT", 0.01)
    begun, ended = asyncio.Event(), asyncio.Event()
    attending = asyncio.create_task(flight.attend(never(begun, ended)))
    await begun.wait()
    assert flight.attended == 1
    match why:
        case "over":
            flight.over.set()
        case "cancelled":
            attending.cancel()
    (end,) = await asyncio.gather(attending, return_exceptions=True)
    assert ended.is_set() and flight.attended == 0
    assert isinstance(end, asyncio.CancelledError if why == "cancelled" else types.ErrorData)


async def test_a_slow_reader_gets_the_first_events_and_no_more(flight):
    for number in range(MAX_WAITING):
        assert flight.put(TextDelta(str(number)))
    assert not flight.put(Log("info", "", b"1"))
    flight.end()
    read = []
    while (event := await flight.event()) is not None:
        read.append(event)
    assert [event.text for event in read] == [str(number) for number in range(MAX_WAITING)]


async def test_a_reader_that_is_ahead_waits_for_the_next_event_and_for_the_end(flight):
    reading = asyncio.create_task(flight.event())
    await asyncio.sleep(0)
    flight.put(TextDelta("now"))
    assert await reading == TextDelta("now")
    reading = asyncio.create_task(flight.event())
    await asyncio.sleep(0)
    flight.end()
    assert await reading is None
