"""Runs that go on without their stream."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex_server.errors import DeadlineExceeded, InvalidRequest, NotFound, OutOfRange, ResourceExhausted, Unavailable
from narthex_server.principal import Principal
from narthex_server.services.resumable import Run, RunLimits, Runs

ANN = Principal("ann", "t")


def event(text: str = "x") -> wire.ChatStreamResponse:
    return wire.ChatStreamResponse(text_delta=common.TextDelta(text=text))


async def sequences(events):
    return [one.sequence async for one in events]


def source(count: int, go: asyncio.Event | None = None, error: Exception | None = None):
    async def events(run):
        for _ in range(count):
            yield event()
        if go is not None:
            await go.wait()
            yield event("last")
        if error is not None:
            raise error

    return events


async def test_a_run_goes_on_when_its_stream_is_gone():
    go, runs = asyncio.Event(), Runs()
    run = runs.start(ANN, source(3, go))
    first = run.follow()
    assert (await anext(first)).sequence == 1
    await first.aclose()
    go.set()
    async with asyncio.timeout(10):
        assert await sequences(runs.find(ANN, run.id).follow(1)) == [2, 3, 4]
        assert await sequences(run.follow()) == [1, 2, 3, 4], "also after its end, and for several"
        assert await sequences(run.follow(4)) == []


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 12))
async def test_what_was_missed_comes_once_and_then_what_is_new(bursts, seen):
    run, got = Run(("t", "ann"), 1 << 20), []

    async def follow():
        async for one in run.follow(min(seen, before)):
            got.append(one.sequence)

    for _ in range(3):
        run.put(event())
    before = 3
    following = asyncio.create_task(follow())
    total = before
    for burst in bursts:
        for _ in range(burst):
            run.put(event())
        total += burst
        await asyncio.sleep(0)
    run.end(None)
    await following
    assert got == list(range(min(seen, before) + 1, total + 1))


async def test_events_that_are_no_longer_kept_are_out_of_range():
    run = Run(("t", "ann"), 50)
    for _ in range(20):
        run.put(event())
    run.end(None)
    with pytest.raises(OutOfRange) as caught:
        await sequences(run.follow())
    assert caught.value.reason == "EVENTS_DROPPED"
    first = int(caught.value.metadata["first"])
    assert await sequences(run.follow(first - 1)) == list(range(first, 21))
    with pytest.raises(OutOfRange):
        await sequences(run.follow(21))


async def test_what_ends_a_run_is_told_to_all_who_follow():
    run = Runs().start(ANN, source(1, error=InvalidRequest("no")))
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            await sequences(run.follow())


async def test_runs_are_their_callers_alone_and_forgotten_in_time():
    runs = Runs(RunLimits(kept_seconds=0.05))
    run = runs.start(ANN, source(1))
    for other in (Principal("bob", "t"), Principal("ann", "u")):
        with pytest.raises(NotFound):
            runs.find(other, run.id)
    await sequences(run.follow())
    async with asyncio.timeout(10):
        while True:
            try:
                runs.find(ANN, run.id)
            except NotFound:
                break
            await asyncio.sleep(0.01)


async def test_a_caller_has_so_many_runs_and_ended_ones_give_way():
    go, runs = asyncio.Event(), Runs(RunLimits(count=2))
    first, second = runs.start(ANN, source(1)), runs.start(ANN, source(1, go))
    await sequences(first.follow())
    runs.start(ANN, source(1, go))
    with pytest.raises(NotFound):
        runs.find(ANN, first.id)
    with pytest.raises(ResourceExhausted) as caught:
        runs.start(ANN, source(1))
    assert caught.value.reason == "RUN_COUNT"
    runs.start(Principal("bob", "t"), source(1))
    assert runs.find(ANN, second.id) is second
    await runs.stop()


async def test_all_runs_together_have_so_many_bytes():
    kept = event()
    kept.sequence = 1
    go, runs = asyncio.Event(), Runs(RunLimits(total_bytes=4 * kept.ByteSize()))
    over, running = runs.start(ANN, source(4)), runs.start(ANN, source(3, go))
    await sequences(over.follow())
    await anext(running.follow())
    bob = Principal("bob", "u")
    later = runs.start(bob, source(4, go))
    with pytest.raises(NotFound):
        runs.find(ANN, over.id)
    await anext(later.follow())
    with pytest.raises(ResourceExhausted) as caught:
        runs.start(bob, source(1))
    assert caught.value.reason == "RUN_MEMORY" and runs.find(ANN, running.id) is running
    await runs.stop()


async def test_a_run_has_a_time_and_ends_with_the_server():
    late = Runs(RunLimits(seconds=0.05)).start(ANN, source(1, asyncio.Event()))
    with pytest.raises(DeadlineExceeded):
        await sequences(late.follow())
    runs = Runs()
    run = runs.start(ANN, source(1, asyncio.Event()))
    following = asyncio.create_task(sequences(run.follow()))
    await asyncio.sleep(0)
    await runs.stop()
    with pytest.raises(Unavailable):
        await following
