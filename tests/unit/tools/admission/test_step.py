"""Calls of forwarded tools at their upstream's pool."""

import asyncio
from contextlib import aclosing

import pytest
from narthex_server.errors import DeadlineExceeded, ResourceExhausted
from narthex_server.lot.limits import Limits
from narthex_server.lot.lot import Lot
from narthex_server.lot.terms import TERMS, Priority, Terms
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.admission.pools import UpstreamPools
from narthex_server.tools.admission.step import AdmissionStep
from narthex_server.tools.step import Invocation
from narthex_server.tools.tool import CallContext, Progress, Tool, ToolResult
from narthex_server.tools.upstream.source import Process, ServerSource

END = ToolResult(b"[]")


class Scene:
    """One upstream that takes one call at a time, and calls of it that end when they are told to."""

    def __init__(self) -> None:
        self.lot = Lot()
        self.pools = UpstreamPools(self.lot, Limits(waiting=2), 100, lambda source: source.concurrency)
        self.pools.open(ServerSource("up", Process("run"), concurrency=1))
        self.pool = self.lot.get("upstream/up")
        self.step = AdmissionStep(self.pools)
        self.go = asyncio.Event()
        self.running: list[Invocation] = []

    async def run(self, call: Invocation):
        self.running.append(call)
        yield Progress(0.5)
        await self.go.wait()
        yield END

    def call(self, raw: bytes = b"{}", server: str = "up", deadline: float | None = None, principal=LOCAL):
        context = CallContext(principal, "r", deadline)
        invocation = Invocation(Tool("up.t", "", "", b"{}", server=server, own_name="t"), raw, {}, context)
        return self.step.around(invocation, self.run)


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def all_of(events) -> list:
    return [event async for event in events]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_and_bytes_are_taken_while_one_runs(scene):
    events = scene.call(b'{"a":1}')
    async with aclosing(events):
        await anext(events)
        assert scene.pool.reading().used == {"calls": 1, "memory": 7}
    assert scene.pool.reading().used == {"calls": 0, "memory": 0}


async def test_the_next_begins_when_the_upstream_is_done_though_the_end_is_not_read(scene):
    events = scene.call()
    await anext(events)
    other = asyncio.create_task(all_of(scene.call()))
    await settle()
    assert len(scene.running) == 1
    scene.running[0].context.over()
    scene.go.set()
    assert (await other)[-1] is END
    await events.aclose()
    assert scene.pool.running == 0


async def test_tools_of_our_own_and_of_upstreams_without_a_pool_do_not_wait(scene):
    events = scene.call()
    await anext(events)
    for server in ("", "gone"):
        others = scene.call(server=server)
        assert await anext(others) == Progress(0.5)
        await others.aclose()
    await events.aclose()


async def test_the_deadline_is_the_calls_own_and_the_priority_that_of_the_terms(scene):
    events = scene.call()
    await anext(events)
    loop = asyncio.get_running_loop()
    TERMS.set(Terms(Priority.HIGH, deadline=loop.time() - 1))  # of a caller who is gone, while others wait on
    waiting = asyncio.create_task(all_of(scene.call()))
    await settle()
    assert scene.pool.reading().waiting == {Priority.HIGH: 1}
    with pytest.raises(DeadlineExceeded):
        await all_of(scene.call(deadline=loop.time() + 0.01))
    await events.aclose()
    scene.go.set()
    assert (await waiting)[-1] is END


async def test_too_much_is_refused(scene):
    with pytest.raises(ResourceExhausted) as caught:
        await all_of(scene.call(b"x" * 101))
    assert caught.value.metadata["limit"] == "memory"
    events = scene.call()
    await anext(events)
    tasks = [asyncio.create_task(all_of(scene.call(principal=Principal(name, name)))) for name in "abc"]
    await settle()
    assert isinstance(tasks[2].exception(), ResourceExhausted)
    scene.go.set()
    await events.aclose()
    await asyncio.gather(*tasks[:2])


async def test_a_removed_upstream_has_no_pool(scene):
    scene.pools.close("up")
    scene.pools.close("up")
    assert scene.pools.get("up") is None and not scene.lot.pools
