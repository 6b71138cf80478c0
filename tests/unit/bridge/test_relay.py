"""Tool calls of the bridge over shared streams, against the server's own tool service."""

import asyncio
import json
import random
import socket
from contextlib import aclosing, asynccontextmanager

import pytest
from narthex.keys import new_key
from narthex.settings import Address
from narthex.v1 import tool_pb2
from narthex_bridge.caller import LOCAL, Caller
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.server.connection import Connection
from narthex_bridge.server.relay import LARGE_BYTES, STREAMS, WINDOW_BYTES, Relay


@asynccontextmanager
async def relaying(address, credential="", **settings):
    connection = Connection(BridgeConfig(server=Address.parse(address), **settings), credential)
    relay = Relay(connection)
    try:
        yield relay
    finally:
        await relay.close()
        await connection.close()


@pytest.fixture
async def tools(start_tools):
    async with start_tools() as running:
        yield running


@pytest.fixture
async def relay(tools):
    async with relaying(tools.address) as made:
        yield made


def begin(relay, name, caller=LOCAL, request_id="r", **arguments):
    request = tool_pb2.CallToolRequest(name=name, arguments=json.dumps(arguments).encode())
    return aclosing(relay.call(request, caller, request_id))


async def answer(relay, name, caller=LOCAL, **arguments):
    """The text of a call's result."""
    async with begin(relay, name, caller, **arguments) as events:
        *_, last = [event async for event in events]
        return json.loads(last.result.content)[0]["text"]


async def failure(relay, name, **arguments):
    with pytest.raises(BackendError) as caught:
        await answer(relay, name, **arguments)
    return caught.value


async def test_many_calls_at_once_share_a_few_streams(tools, relay):
    texts = [str(number) for number in range(200)]
    assert await asyncio.gather(*(answer(relay, "echo", text=text) for text in texts)) == texts
    await relay.close()
    await tools.server.stop(1)  # calls are counted when they have ended, which is after they were answered
    assert tools.count("CallTool", "OK") == 200
    assert 1 <= tools.count("RelayCalls", "Canceled") <= STREAMS


async def test_events_come_in_order_also_from_calls_that_interleave(relay):
    async def sizes(size):
        async with begin(relay, "flood", count="50", size=size) as events:
            return [len(event.text_delta.text) async for event in events if event.HasField("text_delta")]

    assert await asyncio.gather(*(sizes(str(size)) for size in (1, 10, 9000))) == [[1] * 50, [10] * 50, [9000] * 50]


async def test_a_failure_is_what_calltool_would_have_said(relay):
    found = await failure(relay, "echo", text=7)
    assert (found.status, found.reason) == ("INVALID_ARGUMENT", "INVALID_TOOL_ARGUMENTS")
    assert [violation.field for violation in found.violations] == ["text"]
    found = await failure(relay, "broken")
    assert (found.status, found.reason) == ("INTERNAL", "INTERNAL") and "secret" not in found.message


async def test_leaving_a_call_cancels_its_tool_at_once(tools, relay):
    async with begin(relay, "hang") as events:
        await anext(events)
    await tools.scenes.cancelled.wait()
    assert await answer(relay, "echo", text="on") == "on"


async def test_a_cancelled_task_cancels_its_call(tools, relay):
    task = asyncio.create_task(answer(relay, "hang"))
    await tools.scenes.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await tools.scenes.cancelled.wait()


async def test_calls_left_at_any_moment_leave_nothing_behind(tools, relay):
    chance = random.Random(5)

    async def visit():
        name = chance.choice(["hang", "flood", "echo"])
        arguments = {"flood": {"count": "200", "size": "3000"}, "echo": {"text": "x"}}.get(name, {})
        async with begin(relay, name, **arguments) as events:
            async for _ in events:
                if chance.random() < 0.3:
                    return

    visits = [asyncio.create_task(visit()) for _ in range(300)]
    while pending := [visit for visit in visits if not visit.done()]:
        chance.choice(pending).cancel()
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
    assert await answer(relay, "echo", text="on") == "on"
    await relay.close()
    await tools.server.stop(1)
    assert tools.relay.working == 0


async def test_a_call_beyond_its_time_is_deadline_exceeded(tools):
    async with relaying(tools.address, call_timeout_s=0.05) as relay:
        assert (await failure(relay, "hang")).status == "DEADLINE_EXCEEDED"
        await tools.scenes.cancelled.wait()


async def test_a_reader_that_lags_stalls_its_own_call_and_nothing_piles_up(tools, relay):
    async with begin(relay, "flood", count="1000", size="1000") as events:
        await anext(events)
        for number in range(20):
            assert await answer(relay, "echo", text=str(number)) == str(number)
        assert tools.scenes.produced <= WINDOW_BYTES // 1000 + 2
        assert len([event async for event in events]) == 1000
    assert tools.scenes.produced == 1000


async def test_a_lost_server_fails_every_call_in_flight_and_the_next_finds_the_new_one(start_tools):
    async with start_tools() as first:
        connection = Connection(BridgeConfig(server=Address.parse(first.address)), "")
        relay = Relay(connection)
        calls = [asyncio.create_task(failure(relay, "hang")) for _ in range(5)]
        await first.scenes.hanging.wait()
        await first.server.stop(None)
        assert {found.status for found in await asyncio.gather(*calls)} == {"UNAVAILABLE"}
        assert (await failure(relay, "echo", text="nobody there")).status == "UNAVAILABLE"
        async with start_tools(port=Address.parse(first.address).port):
            await connection.channel.channel_ready()
            assert await answer(relay, "echo", text="back") == "back"
            await relay.close()
            await connection.close()


async def test_a_server_that_never_was_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with relaying(address) as relay:
        assert (await failure(relay, "echo", text="")).status == "UNAVAILABLE"


async def test_closing_the_bridge_ends_calls_in_flight(tools, relay):
    call = asyncio.create_task(failure(relay, "hang"))
    await tools.scenes.hanging.wait()
    await relay.close()
    assert (await call).status == "UNAVAILABLE"
    await tools.scenes.cancelled.wait()


async def test_a_draining_server_is_left_and_its_calls_finish(tools, relay):
    call = asyncio.create_task(answer(relay, "hang"))
    await tools.scenes.hanging.wait()
    tools.relay.drain()
    assert (await failure(relay, "echo", text="late")).status == "UNAVAILABLE"
    tools.scenes.release.set()
    assert await call == "released"


async def test_a_large_request_takes_a_stream_of_its_own(tools, relay):
    text = "x" * LARGE_BYTES
    assert await answer(relay, "echo", text=text) == text
    await relay.close()
    await tools.server.stop(1)
    assert tools.count("CallTool", "OK") == 1
    assert tools.count("RelayCalls", "Canceled") == 0


async def test_results_larger_than_the_window_arrive(relay):
    async with begin(relay, "flood", count="3", size=str(1 << 20)) as events:
        assert [len(event.text_delta.text) async for event in events] == [1 << 20] * 3 + [0]


async def test_a_result_beyond_the_bridges_limit_fails_alone(tools):
    async with relaying(tools.address, max_message_bytes=1 << 16) as relay:
        other = asyncio.create_task(answer(relay, "hang"))
        await tools.scenes.hanging.wait()
        found = await failure(relay, "flood", count="1", size=str(1 << 17))
        assert (found.status, found.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
        tools.scenes.release.set()
        assert await other == "released"


@pytest.mark.parametrize("settings", [{"max_message_bytes": 1 << 16}], ids=["a server of tiny messages"])
async def test_where_nothing_is_relayed_each_call_has_its_stream(start_tools, settings):
    async with start_tools(**settings) as tools, relaying(tools.address) as relay:
        assert await asyncio.gather(*(answer(relay, "echo", text=text) for text in "abc")) == ["a", "b", "c"]
        assert (await failure(relay, "nothing")).reason == "TOOL_NOT_FOUND"
        assert tools.count("RelayCalls", "Unimplemented") <= STREAMS
        assert tools.count("CallTool", "OK") == 3


async def test_calls_are_their_callers_own_and_a_key_for_itself_calls_plainly(start_tools, tmp_path):
    delegate, delegate_key = new_key("bridge", delegate=True)
    plain, plain_key = new_key("ci", "acme")
    keys = tmp_path / "keys.toml"
    keys.write_text(delegate_key.toml + plain_key.toml)
    async with start_tools(api_key_file=keys) as tools:
        async with relaying(tools.address, delegate) as relay:
            callers = [Caller(name, "acme") for name in ("ann", "bob")]
            told = await asyncio.gather(*(answer(relay, "who", caller) for caller in callers))
            assert told == ["ann/acme r", "bob/acme r"]
        async with relaying(tools.address, plain) as relay:
            assert await answer(relay, "who", Caller("ann", "bits")) == "ci/acme r"
        async with relaying(tools.address, "unknown") as relay:
            assert (await failure(relay, "who")).status == "UNAUTHENTICATED"
