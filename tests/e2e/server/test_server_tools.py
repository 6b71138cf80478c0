"""Forwarded and native tools over gRPC, and upstreams that are slow, broken or gone."""

import asyncio
import json

import grpc
import pytest
from narthex.v1 import image_pb2, image_pb2_grpc, upstream_pb2
from narthex.v1 import tool_pb2 as wire
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub

NATIVE = ["chat", "count_tokens", "generate", "list_models"]


@pytest.fixture(scope="module")
def server(launch, demo, upstreams):
    return launch("--model", demo, "--mcp-config", str(upstreams))


@pytest.fixture
def stub(channel, settled):
    return ToolServiceStub(channel)


@pytest.fixture
def call(stub):
    """Calls a tool; gives its events."""

    async def events(name: str, **arguments):
        request = wire.CallToolRequest(name=name, arguments=json.dumps(arguments).encode())
        return [event async for event in stub.CallTool(request, timeout=30)]

    return events


def text(events) -> str:
    assert events[-1].WhichOneof("event") == "result"
    return json.loads(events[-1].result.content)[0]["text"]


async def test_native_and_forwarded_tools_are_listed(stub):
    tools = (await stub.ListTools(wire.ListToolsRequest())).tools
    by_name = {tool.name: tool for tool in tools}
    assert [name for name, tool in by_name.items() if not tool.server] == NATIVE
    assert {"time__get_current_time", "workspace__read_file", "rich__echo"} <= by_name.keys()
    assert by_name["time__get_current_time"].server == "time"
    assert json.loads(by_name["rich__echo"].input_schema)["type"] == "object"


async def test_pages_hold_every_tool_once(stub):
    whole = [tool.name for tool in (await stub.ListTools(wire.ListToolsRequest())).tools]
    names, token = [], ""
    while True:
        page = await stub.ListTools(wire.ListToolsRequest(page_size=3, page_token=token))
        names += [tool.name for tool in page.tools]
        if not (token := page.next_page_token):
            break
        assert len(page.tools) == 3
    assert names == whole


async def test_a_foreign_page_token_is_refused(stub, failure):
    caught = await failure(stub.ListTools(wire.ListToolsRequest(page_token="bm9wZQ==")))
    assert (caught.code, caught.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize("name", ["time__get_current_time", "time::get_current_time", "time.get_current_time"])
async def test_a_forwarded_tool_answers_under_each_of_its_names(call, name):
    assert json.loads(text(await call(name, timezone="UTC")))["timezone"] == "UTC"


async def test_a_forwarded_tool_reads_a_file(call):
    assert "porch of a church" in text(await call("workspace__read_file", path="notes.txt"))


async def test_progress_and_logs_come_before_the_result(call):
    events = await call("rich__steps", count=3)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds.count("progress") == 3 and kinds[-1] == "result"
    assert [event.progress.progress for event in events if event.HasField("progress")] == [1, 2, 3]


async def test_a_native_tool_streams_its_text(call):
    events = await call("chat", messages=[{"role": "user", "content": "Hello!"}], max_tokens=16, temperature=0)
    deltas = "".join(event.text_delta.text for event in events if event.HasField("text_delta"))
    assert deltas and deltas == text(events)
    assert json.loads(events[-1].result.structured_content)["model"] == "demo"


async def test_a_tools_own_error_is_a_result(call):
    events = await call("rich__fail")
    assert events[-1].result.is_error and "no luck" in text(events)


@pytest.mark.parametrize(
    ("name", "arguments", "code", "reason"),
    [
        ("nope", b"{}", "NOT_FOUND", "TOOL_NOT_FOUND"),
        ("time__nope", b"{}", "NOT_FOUND", "TOOL_NOT_FOUND"),
        ("absent__anything", b"{}", "UNAVAILABLE", "UPSTREAM_UNAVAILABLE"),
        ("time__get_current_time", b'{"timezone": 3}', "INVALID_ARGUMENT", "INVALID_TOOL_ARGUMENTS"),
        ("time__get_current_time", b"{}", "INVALID_ARGUMENT", "INVALID_TOOL_ARGUMENTS"),
        ("time__get_current_time", b"", "INVALID_ARGUMENT", "INVALID_TOOL_ARGUMENTS"),
        ("time__get_current_time", b"{", "INVALID_ARGUMENT", "INVALID_TOOL_ARGUMENTS"),
        ("time__get_current_time", b"[]", "INVALID_ARGUMENT", "INVALID_TOOL_ARGUMENTS"),
        ("chat", b'{"messages": []}', "INVALID_ARGUMENT", "INVALID_TOOL_ARGUMENTS"),
    ],
)
async def test_a_call_that_cannot_be_made_says_why_and_the_next_one_works(
    stub, call, failure, name, arguments, code, reason
):
    caught = await failure(stub.CallTool(wire.CallToolRequest(name=name, arguments=arguments)))
    assert (caught.code.name, caught.reason) == (code, reason), caught.text
    assert text(await call("rich__echo", text="still here")) == "still here"


async def test_a_call_that_hangs_ends_at_its_deadline(stub, call, failure):
    caught = await failure(stub.CallTool(wire.CallToolRequest(name="rich__hang"), timeout=0.5))
    assert caught.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert text(await call("rich__echo", text="still here")) == "still here"


async def test_an_upstream_that_dies_in_a_call_is_unavailable_and_comes_back(stub, call, failure):
    caught = await failure(stub.CallTool(wire.CallToolRequest(name="rich__die")))
    assert caught.code is grpc.StatusCode.UNAVAILABLE and "rich" in caught.text
    assert text(await call("time__get_current_time", timezone="UTC")), "the others go on"
    async with asyncio.timeout(30):
        async for _ in stub.WatchTools(wire.WatchToolsRequest()):
            names = [tool.name for tool in (await stub.ListTools(wire.ListToolsRequest())).tools]
            if "rich__echo" in names:
                break
    assert text(await call("rich__echo", text="back")) == "back"


async def test_upstreams_are_listed_with_what_is_wrong(stub, channel):
    upstreams = UpstreamServiceStub(channel)
    found = {one.name: one for one in (await upstreams.ListUpstreams(upstream_pb2.ListUpstreamsRequest())).upstreams}
    assert list(found) == ["time", "workspace", "rich", "absent"]
    assert found["time"].state == upstream_pb2.UPSTREAM_STATE_READY and found["time"].tools == 2
    assert (
        found["absent"].state == upstream_pb2.UPSTREAM_STATE_UNHEALTHY and "no-such-command" in found["absent"].failure
    )


async def test_an_upstream_is_connected_anew_on_request(stub, channel, call, failure):
    upstreams = UpstreamServiceStub(channel)
    reply = await upstreams.ReconnectUpstream(upstream_pb2.ReconnectUpstreamRequest(name="time"), timeout=30)
    assert reply.upstream.state == upstream_pb2.UPSTREAM_STATE_READY
    assert text(await call("time__get_current_time", timezone="UTC"))
    absent = await upstreams.ReconnectUpstream(upstream_pb2.ReconnectUpstreamRequest(name="absent"), timeout=30)
    assert absent.upstream.state == upstream_pb2.UPSTREAM_STATE_UNHEALTHY
    caught = await failure(upstreams.ReconnectUpstream(upstream_pb2.ReconnectUpstreamRequest(name="nope")))
    assert caught.code is grpc.StatusCode.NOT_FOUND


async def test_what_is_not_built_says_so(channel, failure):
    images = image_pb2_grpc.ImageServiceStub(channel)
    caught = await failure(images.GenerateImage(image_pb2.GenerateImageRequest()))
    assert caught.code is grpc.StatusCode.UNIMPLEMENTED and "ImageService.GenerateImage" in caught.text


async def test_calls_and_upstreams_show_in_the_metrics(call, server):
    labels = {"tool": "rich__echo", "server": "rich", "outcome": "ok"}
    await call("rich__echo", text="one")
    before = server.metric("narthex_tool_calls_total", **labels)
    await call("rich__echo", text="two")
    assert server.metric("narthex_tool_calls_total", **labels) == before + 1
    assert server.metric("narthex_upstream_up", server="time") == 1
    assert server.metric("narthex_upstream_up", server="absent") == 0
