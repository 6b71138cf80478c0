"""Clients that lose their connection and come back to their streams."""

import asyncio

import pytest
from narthex_bridge.config.events import EventsConfig

DEADLINE_S = 10.0


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            pass


async def test_a_stream_begins_with_an_id_and_the_time_to_wait(bridge, tools):
    session = await bridge.session()
    async with bridge.calling(session, "deltas") as stream:
        first = await stream.block()
        assert (first.data, first.retry) == ("", "1000") and first.id.endswith("-0")
        told = await stream.rest()
    assert [event.text for event in told] == ["Hello", ", ", "world", "Hello, world"]
    ids = [event.id.rpartition("-") for event in (first, *told)]
    assert {id[0] for id in ids} == {ids[0][0]}
    assert [int(id[2]) for id in ids] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("version", "ids"), [("2025-06-18", True), ("2025-03-26", True), ("2024-11-05", False)])
async def test_older_clients_get_no_event_without_data(bridge, version, ids):
    session = await bridge.session(version)
    async with bridge.calling(session, "deltas") as stream:
        first = await stream.block()
        assert first.text == "Hello" and bool(first.id) is ids


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_a_client_gets_what_it_missed_once_and_then_the_rest(bridge, tools, version):
    session = await bridge.session(version)
    tools.feed.put_nowait("one")
    async with bridge.calling(session, "feed") as stream:
        seen = await stream.event()
    for text in ("two", "three"):
        tools.feed.put_nowait(text)
    async with bridge.getting(session, seen.id) as stream:
        assert [(await stream.event()).text for _ in range(2)] == ["two", "three"]
        tools.feed.put_nowait("four")
        assert (await stream.event()).text == "four"
    async with bridge.getting(session, seen.id) as stream:
        for text in ("five", None):
            tools.feed.put_nowait(text)
        assert [event.text for event in await stream.rest()] == ["two", "three", "four", "five", "full"]
    assert await bridge.metric("resumed_streams_total") == 2
    # Its response has been sent, but may have been lost: it is there still, and nothing follows it.
    async with bridge.getting(session, seen.id) as stream:
        told = await stream.rest()
    assert told[-1].text == "full"
    async with bridge.getting(session, told[-1].id) as stream:
        assert await stream.rest() == []


async def test_a_client_that_comes_back_takes_the_stream_over(bridge, tools):
    session = await bridge.session()
    tools.feed.put_nowait("one")
    async with bridge.calling(session, "feed") as old:
        seen = await old.event()
        async with bridge.getting(session, seen.id) as new:
            assert (await new.block()).id == seen.id
            assert await old.rest() == []
            tools.feed.put_nowait("two")
            tools.feed.put_nowait(None)
            assert [event.text for event in await new.rest()] == ["two", "full"]


async def test_ids_are_of_one_session(bridge, tools):
    ann, bob = await bridge.session(), await bridge.session()
    async with bridge.calling(ann, "deltas") as stream:
        seen = (await stream.rest())[0].id
    stem = seen.rpartition("-")[0]
    for session, last in (
        (bob, seen),
        (ann, f"{stem}-99"),
        (ann, f"{stem[:-1]}-1"),
        (ann, "x"),
        (ann, ""),
        (ann, f"{stem}-{'9' * 40}"),
    ):
        answer = await bridge.http.get("/mcp", headers={**session, "last-event-id": last})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600)


async def test_a_call_is_given_up_when_nobody_comes_back(start_bridge, tools):
    async with start_bridge(resume_grace_s=0.1) as bridge:
        session = await bridge.session()
        async with bridge.calling(session, "hang") as stream:
            seen = await stream.event()
        await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
        async with bridge.getting(session, seen.id) as stream:
            (end,) = await stream.rest()
        assert end.message["error"]["code"] == -32800


async def test_a_client_that_saw_no_id_ends_its_call(bridge, tools):
    session = await bridge.session("2025-06-18")
    call = asyncio.create_task(bridge.rpc("tools/call", {"name": "hang"}, **session))
    await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
    call.cancel()
    await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)


async def test_a_call_without_a_connection_can_be_cancelled(bridge, tools):
    session = await bridge.session()
    async with bridge.calling(session, "hang", id="slow") as stream:
        seen = await stream.event()
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "slow"}}
    assert (await bridge.http.post("/mcp", json=cancel, headers=session)).status_code == 202
    await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
    async with bridge.getting(session, seen.id) as stream:
        assert [event.message["error"]["code"] for event in await stream.rest()] == [-32800]


async def test_deleting_the_session_ends_calls_without_a_connection(bridge, tools):
    session = await bridge.session()
    async with bridge.calling(session, "hang") as stream:
        seen = await stream.event()
    assert (await bridge.http.delete("/mcp", headers=session)).status_code == 204
    await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
    assert (await bridge.http.get("/mcp", headers={**session, "last-event-id": seen.id})).status_code == 404


async def test_a_call_that_nobody_reads_waits_after_a_while_and_loses_nothing(bridge, tools):
    session = await bridge.session()
    async with bridge.calling(session, "flood") as stream:
        seen = await stream.event()
    before = -1

    async def still():
        nonlocal before
        before, moved = tools.fed, tools.fed != before
        await asyncio.sleep(0.1)  # long enough for thousands, were it not to wait
        return not moved

    await until(still)
    async with bridge.getting(session, seen.id) as stream:
        tools.release.set()
        told = await stream.rest()
    numbers = [int(event.id.rpartition("-")[2]) for event in told]
    assert numbers == list(range(numbers[0], numbers[0] + len(told)))
    made = 1000 * int(told[-1].text)  # characters; events may hold several texts
    assert sum(len(event.text) for event in (seen, *told[:-1])) == made


async def test_events_that_are_not_kept_any_more_are_counted_and_told(start_bridge, tools):
    async with start_bridge(events=EventsConfig(per_session=3)) as bridge:
        session = await bridge.session()
        for text in "abcdef":
            tools.feed.put_nowait(text)
        async with bridge.calling(session, "feed") as stream:
            seen = [await stream.event() for _ in "abcdef"]
            tools.feed.put_nowait(None)
            await stream.rest()
        async with bridge.getting(session, seen[0].id) as stream:
            blocks = [await stream.block() for _ in range(5)]
        assert blocks[1].comment == "3 events are lost"
        assert [block.text for block in blocks[2:]] == ["e", "f", "full"]
        assert await bridge.metric("lost_events_total") == 3


async def test_a_long_stream_is_closed_and_its_client_polls_for_the_rest(start_bridge, tools):
    async with start_bridge(stream_lifetime_s=0.05, retry_s=0.02) as bridge:
        session = await bridge.session()
        tools.feed.put_nowait("one")
        async with bridge.calling(session, "feed") as stream:
            first = await stream.block()
            assert first.retry == "20"
            seen = await stream.event()
            last = await stream.farewell()
            assert (last.retry, last.data, last.id) == ("20", "", "")
        tools.feed.put_nowait("two")
        async with bridge.getting(session, seen.id) as stream:
            tools.feed.put_nowait(None)
            assert [event.text for event in await stream.rest()] == ["two", "full"]
        # A client that knows nothing of this keeps its stream.
        old = await bridge.session("2025-06-18")
        tools.feed.put_nowait("three")
        async with bridge.calling(old, "feed") as stream:
            assert (await stream.event()).text == "three"
            await asyncio.sleep(0.1)
            tools.feed.put_nowait(None)
            assert [event.text for event in await stream.rest()] == ["full"]


async def test_the_sessions_own_stream_goes_on_where_it_was(bridge, tools):
    await asyncio.wait_for(tools.watching.wait(), DEADLINE_S)
    session = await bridge.session()
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await bridge.http.post("/mcp", json=initialized, headers=session)
    async with bridge.getting(session) as stream:
        first = await stream.block()
        assert first.id and first.retry and not first.data
        await tools.change("echo")
        told = await stream.event()
        assert told.message["method"] == "notifications/tools/list_changed"
    await until(lambda: idle(bridge))
    await tools.change("echo", "count")
    await until(lambda: listed(bridge, session, ["echo", "count"]))
    # The first event may have been lost with the connection; the second came when there was none.
    async with bridge.getting(session, first.id) as stream:
        again = [await stream.event() for _ in range(2)]
        assert again[0].id == told.id and again[1].id != told.id
    async with bridge.getting(session, again[1].id) as stream:
        await tools.change("echo")
        assert (await stream.event()).id not in {event.id for event in again}


async def idle(bridge):
    return 'narthex_bridge_streams{route="/mcp"} 0.0' in (await bridge.http.get("/metrics")).text


async def listed(bridge, session, names):
    answer = await bridge.rpc("tools/list", **session)
    return [tool["name"] for tool in answer.json()["result"]["tools"]] == names


async def test_a_client_without_an_id_waits_for_its_old_stream_and_one_with_an_id_does_not(bridge):
    session = await bridge.session()
    async with bridge.getting(session) as old:
        first = await old.block()
        assert (await bridge.http.get("/mcp", headers=session)).status_code == 409
        async with bridge.getting(session, first.id) as new:
            assert (await new.block()).id == first.id
            assert (await old.farewell()).retry == "1000"


async def test_a_shutdown_tells_waiting_clients_when_to_come_back(start_bridge):
    async with start_bridge() as bridge:
        session = await bridge.session()
        async with bridge.getting(session) as stream:
            await stream.block()
            stopping = asyncio.create_task(bridge.stop())
            assert (await stream.farewell()).retry == "1000"
        await stopping


async def test_a_json_answer_is_not_kept(bridge):
    session = await bridge.session()
    await bridge.rpc("tools/call", {"name": "echo", "arguments": {"text": "hi"}}, **session)
    assert await bridge.metric("stored_events_total") == 0


async def test_many_clients_that_lose_their_connections_lose_nothing(bridge, tools):
    async def one(number):
        session = await bridge.session()
        async with bridge.calling(session, "deltas", id=number) as stream:
            told = [await stream.event()]
        while len(told) < 4:
            async with bridge.getting(session, told[-1].id) as stream:
                told.append(await stream.event())
        return [event.text for event in told]

    found = await asyncio.gather(*map(one, range(20)))
    assert found == [["Hello", ", ", "world", "Hello, world"]] * 20
