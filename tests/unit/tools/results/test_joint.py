"""Several callers of one call: each leaves, waits and fails for itself."""

import asyncio
from random import Random

import pytest
from narthex_server.errors import Cancelled, DeadlineExceeded, InvalidToolArguments, NotFound, Unavailable
from narthex_server.tools.results.joint import MAX_NEWS
from narthex_server.tools.tool import InputRequired, Progress, ToolResult


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def soon(seconds: float = 0.01) -> float:
    return asyncio.get_running_loop().time() + seconds


@pytest.fixture
async def held(scene):
    """A scene whose calls do not end yet."""
    scene.go.clear()
    return scene


async def test_calls_at_the_same_time_are_one(held):
    held.events = (Progress(1),)
    calls = [held.begin() for _ in range(20)]
    await turns()
    held.go.set()
    first, *others = [await call for call in calls]
    assert first == [Progress(1), ToolResult(b'["1"]')] and others == [[ToolResult(b'["1"]')]] * 19
    assert held.calls == 1 and held.lookups == ["miss"] + ["coalesced"] * 19


async def test_the_first_that_leaves_takes_nothing_along(held):
    first, second = held.begin(), held.begin()
    await turns()
    first.cancel()
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError)
    assert held.ended == []
    third = held.begin()
    await turns()
    held.go.set()
    assert await second == await third == [ToolResult(b'["1"]')] and held.calls == 1
    assert await held.ask() == b'["1"]', "and the result is kept"


async def test_the_last_that_leaves_ends_the_call(held):
    calls = [held.begin() for _ in range(3)]
    await turns()
    for call in calls:
        assert held.ended == []
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert held.ended == [1]
    again = held.begin()
    await turns()
    held.go.set()
    assert await again == [ToolResult(b'["2"]')]


async def test_a_reader_that_stops_ends_the_call(held):
    held.events = (Progress(1),)
    events = held.around(held.call())
    assert await anext(events) == Progress(1)
    await events.aclose()
    assert held.ended == [1]


async def test_each_has_its_own_time(held):
    patient = held.begin()
    hasty = [held.begin(deadline=soon()) for _ in range(2)]
    await turns()
    for call in hasty:
        with pytest.raises(DeadlineExceeded):
            await call
    held.go.set()
    assert await patient == [ToolResult(b'["1"]')]


async def test_the_time_of_the_first_is_not_that_of_the_others(held):
    hasty, patient = held.begin(deadline=soon()), held.begin()
    await turns()
    with pytest.raises(DeadlineExceeded) as error:
        await hasty
    assert error.value.reason == "UPSTREAM_DEADLINE_EXCEEDED"
    held.go.set()
    assert await patient == [ToolResult(b'["1"]')] and held.calls == 1


@pytest.mark.parametrize("error", [InvalidToolArguments("no"), Unavailable("down", retry_after=2.0)])
async def test_what_the_server_answers_is_for_all(held, error):
    held.end = error
    calls = [held.begin() for _ in range(3)]
    await turns()
    held.go.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert held.calls == 1
    assert [(type(end), end.message, end.retry_after) for end in ends] == [
        (type(error), error.message, error.retry_after)
    ] * 3


async def test_an_error_result_is_for_all_and_for_nobody_after(held):
    held.end = ToolResult(b"[]", is_error=True)
    calls = [held.begin() for _ in range(3)]
    await turns()
    held.go.set()
    assert [await call for call in calls] == [[held.end]] * 3 and held.calls == 1
    await held.ask()
    assert held.calls == 2


@pytest.mark.parametrize("error", [Cancelled("by the first"), NotFound("not for the first")])
async def test_what_befalls_one_caller_is_its_own(held, error):
    held.end = error
    first, second = held.begin(), held.begin()
    await turns()
    held.go.set()
    with pytest.raises(type(error)):
        await first
    held.end = None
    assert await second == [ToolResult(b'["2"]')]


async def test_a_call_that_asks_is_its_first_callers_alone(held):
    wish = InputRequired("1", ())
    held.events = (Progress(1),)
    asked = asyncio.Event()

    async def run(call):
        held.calls += 1
        number = held.calls
        yield Progress(number)
        await held.go.wait()
        if number == 1:
            yield wish
            await asked.wait()
        yield ToolResult(b'["%d"]' % number)

    async def begin():
        return [event async for event in held.step.around(held.call(), run)]

    first, second = asyncio.create_task(begin()), asyncio.create_task(begin())
    await turns()
    held.go.set()
    assert await second == [Progress(2), ToolResult(b'["2"]')], "the others make it themselves"
    third = await begin()
    assert third == [Progress(3), ToolResult(b'["3"]')]
    asked.set()
    assert await first == [Progress(1), wish, ToolResult(b'["1"]')]


async def test_a_call_that_asks_when_its_first_caller_has_left_is_made_again(held):
    async def run(call):
        held.calls += 1
        number = held.calls
        await held.go.wait()
        if number == 1:
            yield InputRequired("1", ())
            await asyncio.Event().wait()
        yield ToolResult(b'["%d"]' % number)

    async def begin():
        return [event async for event in held.step.around(held.call(), run)]

    first, second = asyncio.create_task(begin()), asyncio.create_task(begin())
    await turns()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    held.go.set()
    async with asyncio.timeout(5):
        assert await second == [ToolResult(b'["2"]')]


async def test_a_slow_reader_holds_up_nobody(held):
    held.events = tuple(Progress(number) for number in range(5 * MAX_NEWS))
    slow = held.around(held.call())
    assert await anext(slow) is not None
    other = held.begin()
    await turns()
    held.go.set()
    assert await other == [ToolResult(b'["1"]')]
    rest = [event async for event in slow]
    assert rest[-1] == ToolResult(b'["1"]') and len(rest) <= MAX_NEWS + 1


async def test_nothing_is_left_of_calls_that_are_over(held):
    calls = [held.begin(b'{"n":%d}' % number) for number in range(5)]
    await turns()
    calls[0].cancel()
    held.go.set()
    await asyncio.gather(*calls, return_exceptions=True)
    await turns()
    assert held.step._runs == {}


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_stays_gets_a_result_whatever_the_others_do(scene, seed):
    random = Random(seed)

    async def run(call):
        scene.calls += 1
        number = scene.calls
        try:
            for _ in range(random.randrange(6)):
                await asyncio.sleep(0)
            kind = random.choice(["result"] * 6 + ["error", "asks", "cancelled", "down"])
            if kind == "asks":
                yield InputRequired("1", ())
            if kind == "cancelled":
                raise Cancelled("by whoever ran it")
            if kind == "down":
                raise Unavailable("down")
            yield ToolResult(b'["%d"]' % number, is_error=kind == "error")
        finally:
            scene.ended.append(number)

    async def caller():
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        raw = random.choice([b"{}", b'{"n":1}'])
        return [event async for event in scene.step.around(scene.call(raw), run)][-1]

    for _ in range(30):
        callers = [asyncio.create_task(caller()) for _ in range(8)]
        for _ in range(random.randrange(8)):
            await asyncio.sleep(0)
        leaving = random.sample(callers, 3)
        for one in leaving:
            one.cancel()
        async with asyncio.timeout(10):
            ends = await asyncio.gather(*callers, return_exceptions=True)
        stayed = [end for one, end in zip(callers, ends, strict=True) if one not in leaving]
        assert all(isinstance(end, ToolResult | Cancelled | Unavailable) for end in stayed)
        scene.now += random.choice([0, 20])
    await turns()
    assert sorted(scene.ended) == list(range(1, scene.calls + 1)) and scene.step._runs == {}
    assert {"hit", "miss", "coalesced"} == set(scene.lookups)
