"""Several bridges that share a Redis: it does not matter which of them a client reaches."""

import asyncio
import contextlib
import json
import signal
import time

import pytest
from narthex.keys import new_key
from narthex_bridge.config.events import EventsConfig
from narthex_bridge.config.redis import RedisUrl
from narthex_bridge.stores.redis import connect

DEADLINE_S = 15.0

pytestmark = pytest.mark.system


@pytest.fixture
def replica(start_bridge, redis):
    return lambda **more: start_bridge(events=EventsConfig(store="redis"), redis=RedisUrl(redis.url), **more)


@pytest.fixture
async def pair(replica):
    async with replica() as a, replica() as b:
        yield a, b


@pytest.fixture
def replica_process(bridge_process, redis):
    return lambda *more: bridge_process("--events-store", "redis", "--redis", redis.url, *more)


async def test_a_session_works_everywhere_and_ends_everywhere(pair):
    a, b = pair
    session = await a.session("2025-06-18")
    assert (await b.rpc("logging/setLevel", {"level": "error"}, **session)).json()["result"] == {}
    async with a.calling(session, "logs") as stream:
        logs = [event.message["params"]["data"] for event in await stream.rest() if "method" in event.message]
    assert logs == ["ERROR"]
    async with a.getting(session) as own:
        assert (await b.http.get("/mcp", headers=session)).status_code == 409
        assert (await b.http.delete("/mcp", headers=session)).status_code == 204
        assert await own.rest() == []
    assert [(await bridge.rpc("ping", **session)).status_code for bridge in pair] == [404, 404]


@pytest.mark.parametrize("back", [False, True])
async def test_a_stream_is_read_on_elsewhere_while_it_is_made(pair, tools, back):
    a, b = pair
    session = await a.session()
    tools.feed.put_nowait("one")
    async with a.calling(session, "feed") as stream:
        seen = await stream.event()
    tools.feed.put_nowait("two")
    async with b.getting(session, seen.id) as stream:
        assert (await stream.event()).text == "two"
        tools.feed.put_nowait("three")
        third = await stream.event()
        assert third.text == "three"
        if not back:
            for text in ("four", None):
                tools.feed.put_nowait(text)
            assert [event.text for event in await stream.rest()] == ["four", "full"]
    if back:
        async with a.getting(session, third.id) as stream:
            for text in ("four", None):
                tools.feed.put_nowait(text)
            assert [event.text for event in await stream.rest()] == ["four", "full"]
    async with b.getting(session, third.id) as stream:
        assert [event.text for event in await stream.rest()] == ["four", "full"]


async def test_a_client_that_moves_while_its_old_connection_hangs_takes_the_stream_along(pair, tools):
    a, b = pair
    session = await a.session()
    tools.feed.put_nowait("one")
    async with a.calling(session, "feed") as old:
        seen = await old.event()
        async with b.getting(session, seen.id) as new:
            assert await old.rest() == []
            for text in ("two", None):
                tools.feed.put_nowait(text)
            assert [event.text for event in await new.rest()] == ["two", "full"]


async def test_the_last_to_come_back_is_the_reader_wherever_the_others_hang(replica, tools):
    async with replica() as a, replica() as b, replica() as c:
        session = await a.session()
        tools.feed.put_nowait("one")
        async with a.calling(session, "feed") as stream:
            seen = await stream.event()
        async with b.getting(session, seen.id) as at_b, c.getting(session, seen.id) as at_c:
            assert await at_b.rest() == []
            async with a.getting(session, seen.id) as at_a:
                assert await at_c.rest() == []
                for text in ("two", None):
                    tools.feed.put_nowait(text)
                assert [event.text for event in await at_a.rest()] == ["two", "full"]


async def test_a_fast_tool_is_read_on_elsewhere_without_loss(pair, tools):
    a, b = pair
    session = await a.session()
    async with a.calling(session, "flood") as stream:
        seen = await stream.event()
    async with b.getting(session, seen.id) as stream:
        told = [await stream.event() for _ in range(1500)]
        tools.release.set()
        told += await stream.rest()
    numbers = [int(event.id.rpartition("-")[2]) for event in told]
    first = int(seen.id.rpartition("-")[2]) + 1
    assert numbers == list(range(first, first + len(told)))
    texts = [seen.text, *(event.text for event in told[:-1])]  # a reader that lags is told several pieces at once
    assert len("".join(texts)) == 1000 * int(told[-1].text)


async def test_reading_elsewhere_keeps_the_call_going_and_leaving_ends_it(replica, tools):
    async with replica(resume_grace_s=1.5) as a, replica(resume_grace_s=1.5) as b:
        session = await a.session()
        async with a.calling(session, "hang") as stream:
            seen = await stream.event()
        async with b.getting(session, seen.id):
            await asyncio.sleep(2.5)
            assert not tools.cancelled.is_set()
        await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
        async with b.getting(session, seen.id) as stream:
            assert [event.message["error"]["code"] for event in await stream.rest()] == [-32800]


async def test_a_cancellation_reaches_the_bridge_that_runs_the_call(pair, tools):
    a, b = pair
    session = await a.session()
    call = asyncio.create_task(a.rpc("tools/call", {"name": "hang"}, id="slow", **session))
    await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "slow"}}
    assert (await b.http.post("/mcp", json=cancel, headers=session)).status_code == 202
    await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
    assert (await call).json()["error"]["code"] == -32800


async def test_an_answer_reaches_the_bridge_that_asked(replica):
    async with replica() as a, replica() as b:
        session = await a.session(can={"elicitation": {}})
        async with a.calling(session, "asks") as stream:
            for _ in range(2):
                question = (await stream.event()).message
                assert question["method"] == "elicitation/create"
                reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
                assert (await b.http.post("/mcp", json=reply, headers=session)).status_code == 202
            assert json.loads((await stream.event()).text) == {"name": {"action": "accept"}}


async def test_a_subscription_holds_and_ends_wherever_it_was_made(replica, tools):
    async with replica() as a, replica() as b:
        session = await a.session()
        await b.rpc("resources/subscribe", {"uri": "test://a"}, **session)
        await asyncio.wait_for(tools.resource_watched.wait(), DEADLINE_S)
        async with a.getting(session) as stream:
            told = asyncio.create_task(stream.event())
            while not told.done():  # a change just when the stream opens may wait for one at the other bridge
                await tools.watched["test://a"].put("test://a")
                await asyncio.wait({told}, timeout=0.5)
            assert (await told).message["params"] == {"uri": "test://a"}
        tools.unwatched.clear()
        await a.rpc("resources/unsubscribe", {"uri": "test://a"}, **session)
        await asyncio.wait_for(tools.unwatched.wait(), DEADLINE_S)


async def test_list_changed_comes_once_whichever_bridge_has_the_stream(pair, tools):
    a, b = pair
    await asyncio.wait_for(tools.watching.wait(), DEADLINE_S)
    session = await a.session()
    assert (await b.rpc("ping", **session)).status_code == 200  # both know it now

    async def listed(names):
        for bridge in pair:
            async with asyncio.timeout(DEADLINE_S):
                answer = {}
                while answer != names:
                    result = (await bridge.rpc("tools/list", **session)).json()["result"]
                    answer = [tool["name"] for tool in result["tools"]]

    async with b.getting(session) as stream:
        first = await stream.block()
        await tools.change("echo")
        await listed(["echo"])
        told = await stream.event()
        assert told.message["method"] == "notifications/tools/list_changed"
        await tools.change("count")
        await listed(["count"])
        second = await stream.event()
    numbers = [int(event.id.rpartition("-")[2]) for event in (first, told, second)]
    assert numbers == [0, 1, 2]
    await asyncio.sleep(0.2)  # the bridges have seen that nobody listens
    await tools.change("echo")
    await listed(["echo"])
    await asyncio.sleep(0.2)
    async with a.getting(session, second.id) as stream:
        third = await stream.event()
        await tools.change("count")
        fourth = await stream.event()
    assert [int(event.id.rpartition("-")[2]) for event in (third, fourth)] == [3, 4]


async def test_sessions_and_streams_of_a_dead_bridge_go_on_elsewhere(replica, replica_process, tools):
    async with replica() as b:
        async with replica_process() as a:
            session = await a.session()
            tools.feed.put_nowait("one")
            async with a.calling(session, "feed", id="mine") as stream:
                seen = await stream.event()
                async with a.getting(session) as own:
                    first = await own.block()
                    await a.stop()
        assert (await b.rpc("tools/call", {"name": "echo"}, id=2, **session)).status_code == 200
        async with b.getting(session, seen.id) as stream:
            end = await asyncio.wait_for(stream.rest(), 30)
            assert (end[0].message["id"], end[0].message["error"]["data"]["reason"]) == ("mine", "BRIDGE_ENDED")
        async with b.getting(session, first.id) as stream:
            assert (await stream.event()).message["method"] == "notifications/tools/list_changed"


async def test_a_session_is_its_callers_everywhere(replica, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("NARTHEX_DELEGATE_TOKEN", "token")
    secrets = {}
    with (tmp_path / "keys.toml").open("w") as file:
        for name in ("ann", "bob"):
            secrets[name], key = new_key(name, "t1")
            file.write(key.toml)
    keys = {"api_key_file": tmp_path / "keys.toml"}
    async with replica(**keys) as a, replica(**keys) as b:
        session = await a.session(authorization=f"Bearer {secrets['ann']}")
        stolen = {**session, "authorization": f"Bearer {secrets['bob']}"}
        assert (await b.rpc("ping", **stolen)).status_code == 404
        assert (await b.http.delete("/mcp", headers=stolen)).status_code == 404
        assert (await b.rpc("ping", **session)).status_code == 200
        assert (await a.rpc("ping", **stolen)).status_code == 404


async def test_without_redis_sessions_wait_and_streams_go_on(replica, redis, tools):
    async with replica() as bridge:
        session = await bridge.session()
        tools.feed.put_nowait("one")
        async with bridge.calling(session, "feed") as stream:
            seen = await stream.event()
            await redis.stop()
            started = time.monotonic()
            answer = await bridge.rpc("ping", **session)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"]["code"] == 503
            assert redis.url.removeprefix("unix://") not in json.dumps(answer.json())
            answer = await bridge.rpc("initialize", {"protocolVersion": "2025-11-25"})
            assert answer.status_code == 503 and "mcp-session-id" not in answer.headers
            assert time.monotonic() - started < 8
            tools.feed.put_nowait("two")
            assert (await stream.event()).text == "two"
            await redis.start()
            tools.feed.put_nowait("three")
            assert (await stream.event()).text == "three"
            # What this Redis never knew is kept as soon as it can be: the new one is empty but for it.
            client = connect(redis.url)
            (key,) = [key async for key in client.scan_iter("narthex:events:stream:*")]
            kept = await client.hgetall(key)
            assert {int(name) for name in kept if name.isdigit()} == {2, 3}
            await client.aclose()
            tools.feed.put_nowait(None)
            assert [event.text for event in await stream.rest()] == ["full"]
        assert (await bridge.rpc("ping", **session)).status_code == 404  # this Redis does not know it
        fresh = await bridge.session()
        assert (await bridge.rpc("ping", **fresh)).status_code == 200
        assert seen.id


async def test_a_redis_that_hangs_hangs_nobody(replica, redis):
    async with replica() as bridge:
        session = await bridge.session()
        redis.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        answer = await bridge.rpc("ping", **session)
        assert answer.status_code == 503 and time.monotonic() - started < 9
        redis.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_S):
            while (await bridge.rpc("ping", **session)).status_code != 200:
                pass


async def test_calls_go_on_while_redis_is_away(replica, redis, tools):
    async with replica() as bridge:
        session = await bridge.session()
        call = asyncio.create_task(bridge.rpc("tools/call", {"name": "hang"}, **session))
        await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
        await redis.stop()
        tools.release.set()
        assert (await call).json()["result"]["content"][0]["text"] == "released"


def test_a_url_is_shown_without_its_password():
    assert str(RedisUrl.parse("redis://user:secret@host:6379/0")) == "redis://…@host:6379/0"
    assert str(RedisUrl.parse("unix:///run/redis.sock")) == "unix:///run/redis.sock"
    with contextlib.suppress(ValueError):
        RedisUrl.parse("http://host")
        raise AssertionError
