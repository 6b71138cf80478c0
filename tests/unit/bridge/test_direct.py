"""POST /mcp/stream and GET /mcp/list: one call without a session."""

import asyncio
import json

DEADLINE_S = 5


async def stream(bridge, method, params, **headers):
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = await bridge.http.post("/mcp/stream", json=message, headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def test_text_comes_as_messages_then_done(bridge):
    told = await stream(bridge, "tools/call", {"name": "deltas", "arguments": {}})
    assert [name for name, _ in told] == ["message", "message", "message", "done"]
    assert "".join(message["params"]["message"] for _, message in told[:-1]) == "Hello, world"
    assert {message["params"]["progressToken"] for _, message in told[:-1]} == {1}
    assert told[-1][1]["result"]["content"][0]["text"] == "Hello, world"


async def test_the_clients_own_token_is_kept(bridge):
    told = await stream(bridge, "tools/call", {"name": "deltas", "_meta": {"progressToken": "mine"}})
    assert told[0][1]["params"]["progressToken"] == "mine"


async def test_a_failure_is_an_error_event(bridge):
    ((name, message),) = await stream(bridge, "tools/call", {"name": "nothing"})
    assert (name, message["id"], message["error"]["code"]) == ("error", 1, -32602)
    assert message["error"]["data"]["reason"] == "TOOL_NOT_FOUND"
    ((name, message),) = await stream(bridge, "no/method", {})
    assert (name, message["error"]["code"]) == ("error", -32601)


async def test_tools_can_be_listed_without_a_session(bridge, tools):
    tools.page_size = 2
    listed = (await bridge.http.get("/mcp/list")).json()["tools"]
    assert [tool["name"] for tool in listed] == tools.names
    ((name, message),) = await stream(bridge, "tools/list", {})
    assert name == "done" and len(message["result"]["tools"]) == 2


async def test_only_one_request_is_taken(bridge):
    for message in ([], {"jsonrpc": "2.0", "method": "ping"}, {"id": 1, "method": "ping"}, 7):
        answer = await bridge.http.post("/mcp/stream", json=message)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600)


async def test_a_disconnect_ends_the_call_at_once(bridge, tools):
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "hang"}}
    async with bridge.http.stream("POST", "/mcp/stream", json=message) as answer:
        assert await anext(answer.aiter_lines()) == "event: message"
    await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)


async def test_many_calls_at_once_each_get_their_own_answer(bridge):
    async def echo(text):
        told = await stream(bridge, "tools/call", {"name": "echo", "arguments": {"text": text}})
        return told[-1][1]["result"]["content"][0]["text"]

    texts = [f"text {number}" for number in range(100)]
    assert await asyncio.gather(*map(echo, texts)) == texts
