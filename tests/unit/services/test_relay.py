"""Calls that share a stream are what calls with a stream of their own are; each suffers alone."""

import json
from collections import defaultdict
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from narthex.keys import new_key
from narthex.v1 import tool_pb2 as wire
from narthex.v1 import tool_pb2_grpc

DELEGATE, DELEGATE_KEY = new_key("bridge", delegate=True)
PLAIN, PLAIN_KEY = new_key("ci", "acme")
ENDED = {0: "OK", 1: "CANCELLED", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 8: "RESOURCE_EXHAUSTED",
         5: "NOT_FOUND", 13: "INTERNAL", 14: "UNAVAILABLE"}  # fmt: skip


class Line:
    """A RelayCalls stream, spoken by hand."""

    def __init__(self, address, channel, metadata=()):
        self.address, self.channel = address, channel
        self.rpc = tool_pb2_grpc.ToolServiceStub(channel).RelayCalls(metadata=metadata)
        self.events = defaultdict(list)
        self.ends = {}

    async def act(self, *actions):
        await self.rpc.write(wire.RelayCallsRequest(actions=actions))

    async def start(self, number, name, *, window=1 << 16, **options):
        arguments = options.pop("arguments", {})
        request = wire.CallToolRequest(name=name, arguments=json.dumps(arguments).encode())
        await self.act(start(number, request, window=window, **options))

    async def read(self):
        """Takes one message in; False at the end of the stream."""
        response = await self.rpc.read()
        if response is grpc.aio.EOF:
            return False
        for told in response.events:
            assert told.call not in self.ends
            if told.HasField("end"):
                self.ends[told.call] = told.end
            else:
                self.events[told.call].append(told.response)
        return True

    async def until_ended(self, *numbers):
        while not self.ends.keys() >= set(numbers):
            assert await self.read()
        return [ENDED[self.ends[number].code] for number in numbers]

    async def until_events(self, number, count):
        while len(self.events[number]) < count:
            assert await self.read()

    def text(self, number):
        return json.loads(self.events[number][-1].result.content)[0]["text"]

    def reason(self, number):
        status = status_pb2.Status.FromString(self.ends[number].status)
        info = error_details_pb2.ErrorInfo()
        assert status.code == self.ends[number].code and status.details[0].Unpack(info)
        return info.reason


def start(number, request, **options):
    return wire.RelayedAction(call=number, start=wire.RelayedStart(request=request, **options))


def cancel(number):
    return wire.RelayedAction(call=number, cancel=wire.RelayedCancel())


def credit(number, size):
    return wire.RelayedAction(call=number, credit=size)


@asynccontextmanager
async def lined(tools, token=""):
    async with grpc.aio.insecure_channel(tools.address) as channel:
        yield Line(tools.address, channel, (("authorization", f"Bearer {token}"),) if token else ())


@pytest.fixture
async def tools(start_tools):
    async with start_tools() as running:
        yield running


@pytest.fixture
async def line(tools):
    async with lined(tools) as made:
        yield made


@pytest.fixture
async def secured(start_tools, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(DELEGATE_KEY.toml + PLAIN_KEY.toml)
    async with start_tools(api_key_file=keys) as running:
        yield running


async def test_calls_of_one_message_each_get_their_own_answer_and_end(tools, line):
    requests = [wire.CallToolRequest(name="echo", arguments=json.dumps({"text": str(n)}).encode()) for n in range(50)]
    await line.act(*(start(n, request, window=1) for n, request in enumerate(requests)))
    assert set(await line.until_ended(*range(50))) == {"OK"}
    assert [line.text(n) for n in range(50)] == [str(n) for n in range(50)]
    assert tools.count("CallTool", "OK") == 50


async def test_a_call_that_fails_says_what_calltool_would_and_fails_alone(tools, line):
    await line.start(1, "hang")
    await line.start(2, "echo", arguments={"text": 7})
    await line.start(3, "nothing")
    await line.start(4, "broken")
    assert await line.until_ended(2, 3, 4) == ["INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL"]
    assert [line.reason(number) for number in (2, 3, 4)] == ["INVALID_TOOL_ARGUMENTS", "TOOL_NOT_FOUND", "INTERNAL"]
    bad = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(line.ends[2].status).details[1].Unpack(bad)
    assert bad.field_violations[0].field == "text"
    assert b"secret" not in line.ends[4].status
    assert tools.count("CallTool", "NotFound") == 1
    tools.scenes.release.set()
    assert await line.until_ended(1) == ["OK"]


async def test_cancelling_a_call_reaches_its_tool_and_no_other(tools, line):
    await line.start(1, "hang")
    await line.until_events(1, 1)
    await line.act(cancel(1), cancel(1), cancel(77), credit(78, 1))
    assert await line.until_ended(1) == ["CANCELLED"]
    assert tools.scenes.cancelled.is_set()
    await line.start(2, "echo", arguments={"text": "on"})
    assert await line.until_ended(2) == ["OK"]
    assert tools.count("CallTool", "Canceled") == 1


async def test_a_call_cancelled_before_it_begins_ends_like_any_other(tools, line):
    request = wire.CallToolRequest(name="hang")
    await line.act(start(1, request, window=1), cancel(1), start(2, request, window=1), cancel(2))
    assert await line.until_ended(1, 2) == ["CANCELLED", "CANCELLED"]
    await line.act(start(3, request, window=1))
    await line.rpc.done_writing()
    line.rpc.cancel()
    async with lined(tools) as other:
        await other.start(1, "echo", arguments={"text": "on"})
        assert await other.until_ended(1) == ["OK"]
    assert tools.relay.working == 0


async def test_a_calls_deadline_ends_it_and_its_tool(tools, line):
    await line.start(1, "hang", timeout_ms=20)
    assert await line.until_ended(1) == ["DEADLINE_EXCEEDED"]
    assert tools.scenes.cancelled.is_set()
    assert tools.count("CallTool", "DeadlineExceeded") == 1


async def test_a_call_whose_window_is_used_up_waits_for_credit_and_holds_up_nobody(tools, line):
    await line.start(1, "flood", window=3000, arguments={"count": "20", "size": "1000"})
    await line.until_events(1, 3)
    await line.start(2, "echo", arguments={"text": "past it"})
    assert await line.until_ended(2) == ["OK"]
    assert (len(line.events[1]), tools.scenes.produced) == (3, 4)  # one is made and waits
    await line.act(credit(1, 1500))
    await line.until_events(1, 5)
    await line.start(3, "echo", arguments={"text": "again"})
    await line.until_ended(3)
    assert len(line.events[1]) == 5
    await line.act(credit(1, 1 << 20))
    assert await line.until_ended(1) == ["OK"]
    assert len(line.events[1]) == 21


async def test_no_client_can_make_the_server_keep_more_than_its_own_window(tools, line):
    await line.start(1, "flood", window=1 << 60, arguments={"count": "1000", "size": "10000"})
    await line.until_events(1, 27)
    await line.act(credit(1, 1 << 60))
    await line.until_events(1, 54)
    await line.start(2, "echo", arguments={"text": "past it"})
    await line.until_ended(2)
    assert (len(line.events[1]), tools.scenes.produced) == (54, 55)


async def test_a_call_without_credit_can_be_cancelled(tools, line):
    await line.start(1, "flood", window=1, arguments={"count": "20", "size": "1000"})
    await line.until_events(1, 1)
    await line.act(cancel(1))
    assert await line.until_ended(1) == ["CANCELLED"]


async def test_an_event_too_large_for_the_wire_ends_its_call_alone(start_tools):
    async with start_tools(max_message_bytes=1 << 17) as tools, lined(tools) as line:
        await line.start(1, "flood", arguments={"count": "1", "size": str(1 << 17)})
        await line.start(2, "flood", arguments={"count": "1", "size": "2000"}, max_event_bytes=1000)
        await line.start(3, "flood", arguments={"count": "1", "size": str(100_000)}, window=1 << 20)
        assert await line.until_ended(1, 2, 3) == ["RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "OK"]
        assert line.reason(1) == line.reason(2) == "MESSAGE_TOO_LARGE"


async def test_only_so_many_calls_work_at_once_on_all_streams(start_tools):
    async with start_tools(max_concurrent_calls=2) as tools, lined(tools) as one, lined(tools) as other:
        await one.start(1, "hang")
        await other.start(1, "hang")
        await one.until_events(1, 1)
        await other.until_events(1, 1)
        await one.start(2, "echo", arguments={"text": "one too many"})
        assert await one.until_ended(2) == ["RESOURCE_EXHAUSTED"]
        await other.act(cancel(1))
        await other.until_ended(1)
        await one.start(3, "echo", arguments={"text": "fits"})
        assert await one.until_ended(3) == ["OK"]


async def test_a_client_that_vanishes_ends_its_calls(tools, line):
    await line.start(1, "hang")
    await line.until_events(1, 1)
    line.rpc.cancel()
    await tools.scenes.cancelled.wait()


async def test_a_client_that_starts_no_more_still_gets_its_answers(tools, line):
    await line.start(1, "hang")
    await line.until_events(1, 1)
    await line.rpc.done_writing()
    tools.scenes.release.set()
    assert await line.until_ended(1) == ["OK"]
    assert not await line.read()
    assert await line.rpc.code() is grpc.StatusCode.OK


async def test_a_draining_server_finishes_calls_takes_none_and_ends_the_stream(tools, line):
    await line.start(1, "hang")
    await line.until_events(1, 1)
    tools.relay.drain()
    await line.start(2, "echo", arguments={"text": "late"})
    assert await line.until_ended(2) == ["UNAVAILABLE"]
    assert line.reason(2) == "DRAINING"
    tools.scenes.release.set()
    assert await line.until_ended(1) == ["OK"]
    assert line.text(1) == "released"
    assert not await line.read()
    assert await line.rpc.code() is grpc.StatusCode.OK


async def test_a_number_in_work_cannot_be_used_again(tools, line):
    await line.start(1, "hang")
    await line.start(1, "echo", arguments={"text": "twice"})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await line.read():
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await tools.scenes.cancelled.wait()


async def test_a_delegate_says_for_each_call_who_calls_and_under_which_id(secured):
    async with lined(secured, DELEGATE) as line:
        ann = json.dumps({"name": "ann", "tenant": "acme"})
        await line.start(1, "who", principal=ann, request_id="first")
        await line.start(2, "who", principal=json.dumps({"name": "bob", "tenant": "bits"}), request_id="second")
        await line.start(3, "who", principal="nonsense")
        await line.start(4, "who")
        assert await line.until_ended(1, 2, 3, 4) == ["OK", "OK", "INVALID_ARGUMENT", "OK"]
        assert line.text(1) == "ann/acme first"
        assert line.text(2) == "bob/bits second"
        assert line.text(4).startswith("bridge/default ")


async def test_what_the_stream_says_of_itself_is_no_calls(secured):
    ann = json.dumps({"name": "ann", "tenant": "acme"})
    async with grpc.aio.insecure_channel(secured.address) as channel:
        metadata = (("authorization", f"Bearer {DELEGATE}"), ("x-request-id", "stream"), ("x-narthex-principal", ann))
        line = Line(secured.address, channel, metadata)
        await line.start(1, "who", request_id="call")
        await line.until_ended(1)
        assert line.text(1) == "bridge/default call"


async def test_an_open_server_relays_for_the_local_caller_alone(tools, line):
    await line.start(1, "who", principal=json.dumps({"name": "ann", "tenant": "acme"}), request_id="r")
    await line.until_ended(1)
    assert line.text(1) == "local/default r"


@pytest.mark.parametrize(
    ("token", "code"), [(PLAIN, "PERMISSION_DENIED"), ("unknown", "UNAUTHENTICATED")], ids=["plain", "unknown"]
)
async def test_whoever_may_not_speak_for_others_is_refused(secured, token, code):
    async with lined(secured, token) as line:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await line.read()
        assert caught.value.code().name == code


async def test_a_server_of_tiny_messages_relays_nothing(start_tools):
    async with start_tools(max_message_bytes=1 << 16) as tools, lined(tools) as line:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await line.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
