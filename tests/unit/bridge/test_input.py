"""What tools, resources and prompts want of a client with a session."""

import asyncio
import json

import pytest

ACCEPTED = {"action": "accept", "content": {"said": "Ann"}}
ABLE = {"elicitation": {}}


async def messages(answer):
    async for line in answer.aiter_lines():
        if line.startswith("data: ") and line[6:]:
            yield json.loads(line[6:])


async def reply(bridge, session, message, **outcome):
    body = {"jsonrpc": "2.0", "id": message["id"], **outcome}
    answer = await bridge.http.post("/mcp", json=body, headers=session)
    assert answer.status_code == 202


async def converse(bridge, session, method, params, **outcome):
    """Answers all that is asked alike; the questions and the response."""
    body, asked = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}, []
    async with bridge.http.stream("POST", "/mcp", json=body, headers=session) as answer, asyncio.timeout(10):
        async for message in messages(answer):
            if "method" not in message:
                return asked, message
            asked.append(message)
            await reply(bridge, session, message, **outcome)
    raise AssertionError("the stream ended without a response")


@pytest.mark.parametrize("tool", ["waits", "asks"])
async def test_a_client_is_asked_on_the_stream_of_its_call(bridge, tools, tool):
    session = await bridge.session(can=ABLE)
    asked, response = await converse(bridge, session, "tools/call", {"name": tool}, result=ACCEPTED)
    assert [message["method"] for message in asked] == ["elicitation/create"] * 2
    assert len({message["id"] for message in asked}) == 2
    assert json.loads(response["result"]["content"][0]["text"])["name"] == ACCEPTED
    assert json.loads(tools.contexts[-1].client_capabilities) == ABLE


async def test_a_refusal_reaches_the_tool_that_waits(bridge):
    session = await bridge.session(can=ABLE)
    error = {"code": -1, "message": "no"}
    _, response = await converse(bridge, session, "tools/call", {"name": "waits"}, error=error)
    assert json.loads(response["result"]["content"][0]["text"])["name"] == error


async def test_a_refusal_ends_the_call_that_cannot_go_on(bridge):
    session = await bridge.session(can=ABLE)
    _, response = await converse(bridge, session, "tools/call", {"name": "asks"}, error={"code": -1, "message": "no"})
    assert response["result"]["isError"] and "no" in response["result"]["content"][0]["text"]


async def test_a_call_goes_on_and_ends_though_its_question_is_open(bridge, tools):
    session = await bridge.session(can=ABLE)
    params = {"name": "tires", "_meta": {"progressToken": 1}}
    body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}
    async with bridge.http.stream("POST", "/mcp", json=body, headers=session) as answer, asyncio.timeout(10):
        stream = messages(answer)
        question, progress = await anext(stream), await anext(stream)
        assert (question["method"], progress["method"]) == ("elicitation/create", "notifications/progress")
        tools.release.set()
        assert (await anext(stream))["result"]["content"][0]["text"] == "never mind"
    await reply(bridge, session, question, result=ACCEPTED)  # too late, and no harm


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "waits"}),
        ("tools/call", {"name": "asks"}),
        ("prompts/get", {"name": "asks", "arguments": {"who": "you"}}),
    ],
)
async def test_a_client_that_says_nothing_is_not_waited_for_without_end(start_bridge, method, params):
    async with start_bridge(input_timeout_s=0.05) as bridge:
        session = await bridge.session(can=ABLE)
        body = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}
        async with bridge.http.stream("POST", "/mcp", json=body, headers=session) as answer, asyncio.timeout(10):
            last = [message async for message in messages(answer)][-1]
        assert last["error"]["data"]["reason"] == "INPUT_TIMEOUT"


@pytest.mark.parametrize(
    ("method", "params"),
    [("resources/read", {"uri": "test://asks"}), ("prompts/get", {"name": "asks", "arguments": {"who": "you"}})],
)
async def test_resources_and_prompts_may_ask_too(bridge, method, params):
    session = await bridge.session(can=ABLE)
    asked, response = await converse(bridge, session, method, params, result=ACCEPTED)
    assert len(asked) == 1 and response["result"]
    _, response = await converse(bridge, session, method, params, error={"code": -1, "message": "no"})
    assert response["error"]["data"]["reason"] == "INPUT_REFUSED"


async def test_a_client_that_reads_no_streams_is_said_to_be_able_to_nothing(bridge, tools):
    session = await bridge.session(can=ABLE)
    await bridge.rpc("tools/call", {"name": "echo"}, **session, accept="application/json")
    assert tools.contexts[-1].client_capabilities == b""


async def test_a_cancelled_call_waits_no_more(bridge, tools):
    session = await bridge.session(can=ABLE)
    body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "waits"}}
    async with bridge.http.stream("POST", "/mcp", json=body, headers=session) as answer, asyncio.timeout(10):
        stream = messages(answer)
        first = await anext(stream)
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
        await bridge.http.post("/mcp", json=note, headers=session)
        await tools.cancelled.wait()
        await reply(bridge, session, first, result=ACCEPTED)  # too late, and no harm


async def test_answers_that_nobody_waits_for_are_taken(bridge):
    session = await bridge.session()
    await reply(bridge, session, {"id": "narthex-77"}, result={})
    await reply(bridge, session, {"id": 1}, error={"code": 1, "message": ""})
