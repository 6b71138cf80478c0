"""Calls of one request: each is what CallTool makes of it, and suffers alone."""

import asyncio
import json
from collections import defaultdict

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from narthex import Client
from narthex.keys import new_key
from narthex.v1 import common_pb2, tool_pb2, tool_pb2_grpc
from narthex_server.services import batch

SECRET, KEY = new_key("ci", "acme")


def call(name: str, call_id: str = "", **arguments: str) -> tool_pb2.ToolInvocation:
    return tool_pb2.ToolInvocation(name=name, arguments=json.dumps(arguments).encode(), call_id=call_id)


def text(event: tool_pb2.CallToolsResponse) -> str:
    return json.loads(event.event.result.content)[0]["text"]


@pytest.fixture
async def tools(start_tools):
    async with start_tools() as running:
        yield running


@pytest.fixture
async def stub(tools):
    async with grpc.aio.insecure_channel(tools.address) as channel:
        yield tool_pb2_grpc.ToolServiceStub(channel)


async def made(stub, *calls, **options) -> dict[int, list[tool_pb2.CallToolsResponse]]:
    events = defaultdict(list)
    async for event in stub.CallTools(tool_pb2.CallToolsRequest(calls=calls, **options), timeout=20):
        events[event.index].append(event)
    return events


async def test_each_call_has_its_own_answer(tools, stub):
    events = await made(stub, *(call("echo", text=str(number)) for number in range(128)))
    assert sorted(events) == list(range(128)) and all(len(each) == 1 for each in events.values())
    assert [text(events[number][0]) for number in range(128)] == [str(number) for number in range(128)]
    assert tools.count("CallTool", "OK") == 128 and tools.count("CallTools", "OK") == 1


async def test_a_call_that_fails_says_what_calltool_would_and_fails_alone(tools, stub):
    calls = [call("echo", text="1"), call("nothing"), call("echo"), call("broken"), call("echo", text="2")]
    events = await made(stub, *calls)
    assert text(events[0][0]) == "1" and text(events[4][0]) == "2"
    failures = [events[index][0].failure for index in (1, 2, 3)]
    assert [(failure.code, failure.reason) for failure in failures] == [
        (5, "TOOL_NOT_FOUND"), (3, "INVALID_TOOL_ARGUMENTS"), (13, "INTERNAL"),
    ]  # fmt: skip
    assert "nothing" in failures[0].message and "secret" not in failures[2].message


async def test_events_of_calls_interleave_and_one_that_hangs_holds_up_none(tools, stub):
    request = tool_pb2.CallToolsRequest(
        calls=[call("hang"), call("flood", count="3", size="5"), call("echo", text="x")]
    )
    events = defaultdict(list)
    async for event in stub.CallTools(request, timeout=20):
        events[event.index].append(event.event.WhichOneof("event"))
        if len(events[1]) == 4 and events[2]:
            tools.scenes.release.set()
    assert events == {0: ["text_delta", "result"], 1: ["text_delta"] * 3 + ["result"], 2: ["result"]}


async def test_leaving_ends_all_calls(tools, stub):
    rpc = stub.CallTools(tool_pb2.CallToolsRequest(calls=[call("hang"), call("hang")]), timeout=20)
    await rpc.read()
    rpc.cancel()
    async with asyncio.timeout(10):
        await tools.scenes.cancelled.wait()


async def test_the_deadline_is_that_of_the_batch(tools, stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in stub.CallTools(
            tool_pb2.CallToolsRequest(calls=[call("echo", text="1"), call("hang")]), timeout=0.3
        ):
            assert event.index in (0, 1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        await tools.scenes.cancelled.wait()


@pytest.mark.parametrize("count", [0, 129])
async def test_a_batch_has_1_to_128_calls(stub, count):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await made(stub, *[call("echo", text="x")] * count)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details) and bad.field_violations[0].field == "calls"


async def test_the_ids_of_calls_are_their_own(tools, stub):
    request = tool_pb2.CallToolsRequest(
        calls=[call("who"), call("who", "mine"), call("hang", "twice"), call("who", "twice")]
    )
    said = {}
    async for event in stub.CallTools(request, metadata=[("x-request-id", "r")], timeout=20):
        if event.HasField("failure"):
            said[event.index] = event.failure.reason
            tools.scenes.release.set()
        elif event.event.HasField("result"):
            said[event.index] = text(event)
    assert said == {0: "local/default r/0", 1: "local/default r/1", 2: "released", 3: "ALREADY_EXISTS"}


async def test_what_is_not_promised_is_refused_for_each(stub):
    options = common_pb2.CallOptions(idempotency_key="once")
    events = await made(stub, call("echo", text="x"), call("echo", text="y"), options=options)
    assert [events[index][0].failure.code for index in range(2)] == [12, 12]


async def test_calls_run_side_by_side_within_bounds(start_tools, monkeypatch):
    monkeypatch.setattr(batch, "AT_ONCE_PER_SERVER", 3)
    async with start_tools() as tools, grpc.aio.insecure_channel(tools.address) as channel:
        rpc = tool_pb2_grpc.ToolServiceStub(channel).CallTools(
            tool_pb2.CallToolsRequest(calls=[call("hang")] * 9), timeout=20
        )
        for _ in range(3):
            assert (await rpc.read()).event.HasField("text_delta")
        assert tools.relay.working == 3
        tools.scenes.release.set()
        results = 0
        while (event := await rpc.read()) is not grpc.aio.EOF:
            results += event.event.HasField("result")
        assert results == 9


async def test_calls_of_batches_count_among_all_that_run(start_tools):
    async with start_tools(max_concurrent_calls=2) as tools, grpc.aio.insecure_channel(tools.address) as channel:
        stub = tool_pb2_grpc.ToolServiceStub(channel)
        failed = 0
        async for event in stub.CallTools(tool_pb2.CallToolsRequest(calls=[call("hang")] * 3), timeout=20):
            if event.HasField("failure"):
                assert (event.failure.code, event.failure.reason) == (8, "MAX_CONCURRENT_CALLS")
                failed += 1
                tools.scenes.release.set()
        assert failed == 1


async def test_an_answer_that_is_too_large_fails_its_call_alone(start_tools):
    async with start_tools(max_message_bytes=64 * 1024) as tools, grpc.aio.insecure_channel(tools.address) as channel:
        stub = tool_pb2_grpc.ToolServiceStub(channel)
        events = await made(stub, call("flood", count="1", size="70000"), call("echo", text="x"))
        assert events[0][0].failure.reason == "MESSAGE_TOO_LARGE" and text(events[1][0]) == "x"


async def test_a_slow_reader_holds_the_calls_back(tools, stub):
    rpc = stub.CallTools(tool_pb2.CallToolsRequest(calls=[call("flood", count="100000", size="1000")]), timeout=30)
    for _ in range(3):
        await rpc.read()
    before = -1
    while before != tools.scenes.produced:
        before = tools.scenes.produced
        for _ in range(200):
            await asyncio.sleep(0)
    assert tools.scenes.produced < 50_000
    rpc.cancel()


async def test_each_call_is_made_with_the_callers_key(start_tools, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(KEY.toml)
    async with start_tools(api_key_file=keys) as tools:
        async with Client(tools.address, api_key=SECRET) as client:
            (result,) = await client.call_tools([("who", {})])
            assert json.loads(result.content)[0]["text"].startswith("ci/acme ")
        async with Client(tools.address) as client:
            with pytest.raises(Exception, match="UNAUTHENTICATED"):
                await client.call_tools([("who", {})])
