"""Tools that ask their caller, over gRPC: who is asked, who may answer, and what ends the waiting."""

import asyncio
import json
import os
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from narthex import Client
from narthex.keys import append_key, new_key
from narthex.v1 import common_pb2, lot_pb2
from narthex.v1 import tool_pb2 as wire
from narthex.v1.lot_pb2_grpc import LotServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub

ASKING = Path(__file__).parents[1] / "upstreams" / "servers" / "asking.py"
ALL = b'{"sampling":{},"elicitation":{"form":{},"url":{}},"roots":{}}'
ADA = b'{"action":"accept","content":{"name":"Ada"}}'
ROOTS = b'{"roots":[{"uri":"file:///srv"}]}'


@pytest.fixture(scope="module")
def key():
    return new_key("ci", "acme")


@pytest.fixture(scope="module")
def server(launch, demo, key, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asking")
    entry = {"command": sys.executable, "args": [str(ASKING), "stdio"]}
    servers = {
        "old": {**entry, "protocol": "handshake", "scope": "shared"},
        "new": entry,
        "own": {**entry, "protocol": "handshake", "sampling": "model"},
    }
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    append_key(folder / "keys.toml", key[1])
    env = {**os.environ, "NARTHEX_DELEGATE_TOKEN": "between-us"}
    options = ("--mcp-config", str(folder / "mcp.json"), "--api-key-file", str(folder / "keys.toml"))
    return launch("--model", demo, *options, env=env)


class Caller:
    """One principal on a connection of its own."""

    def __init__(self, stub, name, tenant):
        self.stub = stub
        principal = json.dumps({"name": name, "tenant": tenant})
        self.metadata = (("authorization", "Bearer between-us"), ("x-narthex-principal", principal))

    def call(self, name, call_id="", capabilities=ALL, timeout=30, **mcp):
        context = wire.McpContext(client_capabilities=capabilities, **mcp)
        request = wire.CallToolRequest(name=name, call_id=call_id, mcp=context)
        return self.stub.CallTool(request, metadata=self.metadata, timeout=timeout)

    def respond(self, call_id, **answers):
        """`answers` by id, which begins with an underscore, as numbers are no names."""
        responses = [wire.InputResponse(id=name.strip("_"), result=answer) for name, answer in answers.items()]
        request = wire.RespondRequest(call_id=call_id, responses=responses)
        return self.stub.Respond(request, metadata=self.metadata, timeout=10)

    def level(self, **request):
        return self.stub.SetLogLevel(wire.SetLogLevelRequest(**request), metadata=self.metadata)


@pytest.fixture(autouse=True)
async def settled(channel, key, upstreams_up):
    await upstreams_up(channel, [("authorization", f"Bearer {key[0]}")])


@pytest.fixture
async def caller(server):
    channels = []

    def one(name="ann", tenant="blue"):
        channels.append(grpc.aio.insecure_channel(server.grpc))
        return Caller(ToolServiceStub(channels[-1]), name, tenant)

    yield one
    for channel in channels:
        await channel.close()


async def asked(call) -> wire.InputRequired:
    """The call's next wish for input."""
    async for event in call:
        if event.HasField("input_required"):
            return event.input_required
    raise AssertionError("asked for nothing")


async def end(call) -> wire.CallToolResponse:
    return [event async for event in call][-1]


def text(event) -> str:
    assert event.HasField("result"), event
    return json.loads(event.result.content)[0]["text"]


async def test_an_answer_may_come_over_another_connection_of_the_tenant_and_of_nobody_else(caller, failure):
    call = caller().call("old__both", "c1")
    one, two = await asked(call), await asked(call)
    assert one.call_id == "c1" and not one.HasField("request_state")
    ids = {wish.requests[0].mcp.method: f"_{wish.requests[0].id}" for wish in (one, two)}
    friend, stranger = caller("bob"), caller("eve", "red")
    roots = {ids["roots/list"]: ROOTS}
    for who, call_id, answers, code in (
        (stranger, "c1", roots, "NOT_FOUND"),
        (friend, "c2", roots, "NOT_FOUND"),
        (friend, "c1", {"_77": ROOTS}, "FAILED_PRECONDITION"),
        (friend, "c1", {ids["roots/list"]: b'{"roots":3}'}, "INVALID_ARGUMENT"),
        (friend, "c1", {ids["roots/list"]: b"["}, "INVALID_ARGUMENT"),
    ):
        assert (await failure(who.respond(call_id, **answers))).code.name == code
    assert (await friend.respond("c1", **roots)).waiting == 1
    assert (await failure(friend.respond("c1", **roots))).code is grpc.StatusCode.FAILED_PRECONDITION
    assert (await friend.respond("c1", **{ids["elicitation/create"]: ADA})).waiting == 0
    answers = json.loads(text(await end(call)))
    assert answers["form"]["content"] == {"name": "Ada"} and answers["roots"]["roots"][0]["uri"] == "file:///srv"
    assert (await failure(friend.respond("c1"))).code is grpc.StatusCode.NOT_FOUND


async def test_a_call_id_is_one_running_calls_of_the_tenant(caller, failure):
    call = caller().call("old__form", "same")
    wish = await asked(call)
    caught = await failure(caller("bob").call("old__form", "same"))
    assert caught.code is grpc.StatusCode.ALREADY_EXISTS
    assert (await failure(caller().call("old__form", "a b"))).code is grpc.StatusCode.INVALID_ARGUMENT
    await caller().respond("same", **{f"_{wish.requests[0].id}": ADA})
    assert "Ada" in text(await end(call))


async def test_with_callers_of_two_tenants_in_flight_on_one_pipe_nobody_is_asked(caller):
    theirs = caller("eve", "red").call("old__form")
    wish = await asked(theirs)
    assert "several callers" in text(await end(caller().call("old__form")))
    await caller("eve", "red").respond(wish.call_id, **{f"_{wish.requests[0].id}": ADA})
    assert "Ada" in text(await end(theirs))


async def test_a_plain_caller_is_asked_for_nothing(caller):
    events = [event async for event in caller().call("old__form", capabilities=b"")]
    assert not any(event.HasField("input_required") for event in events)
    assert text(events[-1]).startswith("-32601")


async def test_an_answer_that_never_comes_ends_with_the_deadline(caller, failure):
    call = caller().call("old__form", "late", timeout=1)
    wish = await asked(call)
    assert (await failure(call)).code is grpc.StatusCode.DEADLINE_EXCEEDED
    answer = {f"_{wish.requests[0].id}": ADA}
    assert (await failure(caller().respond("late", **answer))).code is grpc.StatusCode.NOT_FOUND


async def test_a_cancelled_call_waits_no_longer(caller, failure):
    call = caller().call("old__form", "gone")
    wish = await asked(call)
    call.cancel()
    async with asyncio.timeout(10):
        while True:  # the cancellation has to reach the server
            try:
                await caller().respond("gone")
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.NOT_FOUND
                break
    second = caller().call("old__form", "gone")
    wish = await asked(second)
    await caller().respond("gone", **{f"_{wish.requests[0].id}": ADA})
    assert "Ada" in text(await end(second))


async def test_a_call_that_ends_with_a_wish_is_made_again_with_the_answers(caller, failure):
    last = await end(caller().call("new__twice"))
    wish = last.input_required
    assert wish.request_state and [one.id for one in wish.requests] == ["who"]
    responses = b'{"who":%b}' % ADA
    again = caller().call("new__twice", input_responses=responses, request_state=wish.request_state)
    assert json.loads(text(await end(again)))["who"]["content"] == {"name": "Ada"}
    caught = await failure(caller().call("new__twice", input_responses=responses, request_state=b"forged"))
    assert (caught.code.name, caught.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST_STATE")


async def test_what_a_caller_lacks_is_told(caller, failure):
    caught = await failure(caller().call("new__twice", capabilities=b"{}"))
    assert (caught.code.name, caught.reason) == ("FAILED_PRECONDITION", "MISSING_CLIENT_CAPABILITY")
    assert json.loads(caught.metadata["required_capabilities"]) == {"elicitation": {"form": {}}}


async def test_a_level_holds_for_the_caller_and_not_for_others(caller, failure):
    async def levels(who, **mcp):
        return [event.log.level async for event in who.call("new__logs", **mcp) if event.HasField("log")]

    ann, bob = caller(), caller("bob")
    await ann.level(level=wire.LOG_LEVEL_ERROR, server="new")
    assert await levels(ann) == [wire.LOG_LEVEL_ERROR]
    assert await levels(bob) == [wire.LOG_LEVEL_INFO, wire.LOG_LEVEL_ERROR]
    assert len(await levels(ann, log_level=wire.LOG_LEVEL_DEBUG)) == 3
    await ann.level(level=wire.LOG_LEVEL_OFF)
    assert await levels(ann) == []
    assert (await failure(ann.level(server="nobody"))).code is grpc.StatusCode.NOT_FOUND


async def test_a_model_of_this_server_answers_where_it_may(caller):
    answer = json.loads(text(await end(caller().call("own__sample", capabilities=b""))))
    assert answer["model"] == "demo" and answer["content"]["text"]


async def test_the_python_client_answers_by_a_function_in_both_eras(server, key):
    async def answer(request: wire.InputRequest):
        assert request.mcp.method == "elicitation/create" and "Who" in json.loads(request.mcp.params)["message"]
        return json.loads(ADA)

    async with Client(server.grpc, api_key=key[0], timeout=30) as client:
        for tool in ("old__form", "new__twice"):
            result = await client.call_tool(tool, on_input=answer)
            assert b"Ada" in result.content
        assert b"-32601" in (await client.call_tool("old__form")).content, "nobody can answer"
        late = await client.call_tool("old__impatient", on_input=forgetful)
        assert b"-32001" in late.content


async def forgetful(request: wire.InputRequest):
    """Answers when nobody waits for it any more."""
    await asyncio.sleep(0.5)
    return json.loads(ADA)


async def test_a_parked_call_waits_for_its_answer_while_nobody_follows_it(caller, channel):
    ann = caller()
    context = wire.McpContext(client_capabilities=ALL)
    options = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
    request = wire.CallToolRequest(name="old__form", call_id="parked", mcp=context, options=options)
    call = ann.stub.CallTool(request, metadata=ann.metadata)
    wish = await asked(call)
    ticket = dict(await call.initial_metadata())["x-request-id"]
    call.cancel()
    lot, watch = LotServiceStub(channel), lot_pb2.WatchRequest(ticket_ids=[ticket])
    async for change in lot.Watch(watch, metadata=ann.metadata, timeout=10):
        if change.ticket.state == lot_pb2.TICKET_STATE_INPUT_REQUIRED:
            await ann.respond("parked", **{f"_{wish.requests[0].id}": ADA})
    assert change.ticket.state == lot_pb2.TICKET_STATE_DONE
    fetch = lot_pb2.FetchRequest(ticket_id=ticket, wait=Duration(seconds=10))
    (result,) = [one async for one in lot.Fetch(fetch, metadata=ann.metadata)]
    assert "Ada" in json.loads(result.call_tool.content)[0]["text"]
    again = wire.ResumeCallRequest(call_id="parked")
    events = [one.event async for one in ann.stub.ResumeCall(again, metadata=ann.metadata)]
    assert wish in [event.input_required for event in events] and events[-1].result == result.call_tool
