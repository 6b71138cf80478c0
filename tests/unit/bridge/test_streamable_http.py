"""POST, GET and DELETE /mcp on the wire."""

import asyncio
import json

import pytest

DEADLINE_S = 5


def events(text: str) -> list[tuple[str, dict]]:
    """The named events; comments, and the one without data that primes a client, are none."""
    found = []
    for block in text.strip("\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields.get("data"):
            found.append((fields["event"], json.loads(fields["data"])))
    return found


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_initialize_agrees_on_the_version_the_client_wants(bridge, version):
    answer = await bridge.rpc("initialize", {"protocolVersion": version, "capabilities": {}})
    assert answer.headers["content-type"] == "application/json"
    result = answer.json()["result"]
    assert result["protocolVersion"] == version
    assert result["capabilities"]["tools"] == {"listChanged": True}
    assert len(answer.headers["mcp-session-id"]) >= 32


async def test_initialize_offers_the_latest_version_for_an_unknown_one(bridge):
    answer = await bridge.rpc("initialize", {"protocolVersion": "1999-01-01"})
    assert answer.json()["result"]["protocolVersion"] == "2025-11-25"


async def test_a_failed_initialize_opens_no_session(bridge):
    answer = await bridge.rpc("initialize", {})
    assert answer.json()["error"]["code"] == -32602
    assert "mcp-session-id" not in answer.headers


async def test_an_answer_without_notifications_is_json(bridge):
    session = await bridge.session()
    answer = await bridge.rpc("tools/call", {"name": "echo", "arguments": {"text": "hi"}}, id="a", **session)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "jsonrpc": "2.0",
        "id": "a",
        "result": {"content": [{"type": "text", "text": "hi"}], "isError": False},
    }


async def test_progress_makes_the_answer_a_stream(bridge):
    session = await bridge.session()
    answer = await bridge.rpc("tools/call", {"name": "count", "_meta": {"progressToken": "t"}}, **session)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [message for _, message in events(answer.text)]
    assert [m["params"]["progress"] for m in told[:-1]] == [0, 50, 100]
    assert {m["params"]["progressToken"] for m in told[:-1]} == {"t"}
    assert told[-1]["id"] == 1
    # Far beyond 2^64: no parser was in between.
    assert '"structuredContent":{"n":12345678901234567890123}' in answer.text


async def test_without_a_token_there_is_no_progress(bridge):
    session = await bridge.session()
    answer = await bridge.rpc("tools/call", {"name": "count"}, **session)
    assert answer.headers["content-type"] == "application/json"


async def test_a_client_that_takes_only_json_gets_json(bridge):
    session = await bridge.session(accept="application/json")
    answer = await bridge.rpc("tools/call", {"name": "deltas", "_meta": {"progressToken": 1}}, **session)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["content"][0]["text"] == "Hello, world"


async def test_arguments_reach_the_tool_byte_for_byte(bridge, tools):
    session = await bridge.session()
    arguments = '{ "n" : 123456789012345678901234567890, "x":1.10e2,"s":"\\u00e9" }'
    body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{arguments}}}}}'
    await bridge.http.post("/mcp", content=body, headers={**session, "content-type": "application/json"})
    assert tools.arguments == [arguments.encode()]


async def test_older_versions_do_not_see_newer_members(bridge):
    old, new = await bridge.session("2024-11-05"), await bridge.session("2025-11-25")
    seen = {}
    for name, session in (("old", old), ("new", new)):
        answer = await bridge.rpc("tools/list", **session)
        seen[name] = next(tool for tool in answer.json()["result"]["tools"] if tool["name"] == "count")
    assert set(seen["old"]) == {"name", "description", "inputSchema"}
    assert set(seen["new"]) == {"name", "title", "description", "inputSchema", "outputSchema", "annotations"}
    answer = await bridge.rpc("tools/call", {"name": "count"}, **old)
    assert "structuredContent" not in answer.json()["result"]


async def test_pages_pass_through(bridge, tools):
    tools.page_size = 4
    session = await bridge.session()
    first = (await bridge.rpc("tools/list", **session)).json()["result"]
    second = (await bridge.rpc("tools/list", {"cursor": first["nextCursor"]}, **session)).json()["result"]
    assert [tool["name"] for tool in first["tools"] + second["tools"]] == tools.names
    assert "nextCursor" not in second


async def test_the_list_is_kept_until_it_changes(bridge, tools):
    session = await bridge.session()
    async with bridge.http.stream("GET", "/mcp", headers=session) as stream:
        lines = stream.aiter_lines()

        async def told():
            while not (line := await asyncio.wait_for(anext(lines), DEADLINE_S)).startswith("data: "):
                pass
            assert json.loads(line.removeprefix("data: "))["method"] == "notifications/tools/list_changed"

        async def listed():
            answer = await bridge.rpc("tools/list", **session)
            return [tool["name"] for tool in answer.json()["result"]["tools"]]

        async def kept():
            asked = -1
            while asked != tools.listed:
                asked = tools.listed
                assert await listed() == tools.names

        await asyncio.wait_for(kept(), DEADLINE_S)
        await tools.change("echo")
        while await listed() != ["echo"]:
            await told()


async def test_a_session_has_one_waiting_stream_at_a_time(bridge):
    session = await bridge.session()
    async with bridge.http.stream("GET", "/mcp", headers=session) as first:
        assert first.status_code == 200
        assert (await bridge.http.get("/mcp", headers=session)).status_code == 409


async def test_delete_ends_the_session_and_its_stream(bridge):
    session = await bridge.session()
    async with bridge.http.stream("GET", "/mcp", headers=session) as stream:
        assert (await bridge.http.delete("/mcp", headers=session)).status_code == 204
        assert [line async for line in stream.aiter_lines() if '"id"' in line] == []
    assert (await bridge.rpc("ping", **session)).status_code == 404
    assert (await bridge.http.delete("/mcp", headers=session)).status_code == 404


async def test_a_client_that_forgets_its_session_is_served_what_needs_none(bridge, tools):
    await bridge.session()
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await bridge.http.post("/mcp", json=note)).status_code == 202
    assert len((await bridge.rpc("tools/list")).json()["result"]["tools"]) == len(tools.names)
    answer = await bridge.rpc("tools/call", {"name": "echo", "arguments": {"text": "hi"}})
    assert answer.json()["result"]["content"][0]["text"] == "hi" and "mcp-session-id" not in answer.headers
    assert tools.contexts[-1].client_capabilities == b""
    assert (await bridge.rpc("ping")).json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    for method in ("resources/subscribe", "logging/setLevel"):
        assert (await bridge.rpc(method, {"uri": "test://a", "level": "info"})).status_code == 400


async def test_session_header_is_needed_and_checked(bridge):
    assert (await bridge.rpc("logging/setLevel", {"level": "info"})).status_code == 400
    assert (await bridge.rpc("ping", **{"mcp-session-id": "unknown"})).status_code == 404
    assert (await bridge.http.get("/mcp")).status_code == 400


async def test_unknown_version_header_is_refused(bridge):
    session = await bridge.session()
    answer = await bridge.rpc("ping", **{**session, "mcp-protocol-version": "1.0"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32022
    del session["mcp-protocol-version"]
    assert (await bridge.rpc("ping", **session)).json() == {"jsonrpc": "2.0", "id": 1, "result": {}}


async def test_notifications_and_answers_are_accepted_without_a_body(bridge):
    session = await bridge.session()
    for message in (
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}},
        {"jsonrpc": "2.0", "id": 5, "result": {}},
    ):
        answer = await bridge.http.post("/mcp", json=message, headers=session)
        assert (answer.status_code, answer.content) == (202, b"")


async def test_batches_are_answered_in_the_one_version_that_has_them(bridge):
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": "two", "method": "nowhere"},
        {"jsonrpc": "1.0", "id": 3, "method": "ping"},
    ]
    session = await bridge.session("2025-03-26")
    answers = (await bridge.http.post("/mcp", json=batch, headers=session)).json()
    codes = {answer["id"]: answer.get("error", {}).get("code") for answer in answers}
    assert codes == {1: None, "two": -32601, 3: -32600}
    session = await bridge.session("2025-06-18")
    assert (await bridge.http.post("/mcp", json=batch, headers=session)).status_code == 400


async def test_a_batch_with_progress_streams_every_answer(bridge):
    session = await bridge.session("2025-03-26")
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "deltas", "_meta": {"progressToken": 7}},
        },
    ]
    answer = await bridge.http.post("/mcp", json=batch, headers=session)
    told = [message for _, message in events(answer.text)]
    assert sorted(m["id"] for m in told if "id" in m) == [1, 2]
    assert "".join(m["params"]["message"] for m in told if "method" in m) == "Hello, world"


async def test_log_messages_follow_the_level(bridge):
    session = await bridge.session()
    for level, expected in (("debug", ["DEBUG", "INFO", "ERROR"]), ("error", ["ERROR"]), ("info", ["INFO", "ERROR"])):
        assert (await bridge.rpc("logging/setLevel", {"level": level}, **session)).json()["result"] == {}
        answer = await bridge.rpc("tools/call", {"name": "logs"}, **session)
        logs = [message["params"] for _, message in events(answer.text) if "method" in message]
        assert [log["data"] for log in logs] == expected
        assert all(log["logger"] == "t" for log in logs)
    assert (await bridge.rpc("logging/setLevel", {"level": "loud"}, **session)).json()["error"]["code"] == -32602


async def test_cancelled_notification_ends_the_call_at_once(bridge, tools):
    session = await bridge.session()
    call = asyncio.create_task(bridge.rpc("tools/call", {"name": "hang"}, id="slow", **session))
    await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "slow"}}
    assert (await bridge.http.post("/mcp", json=cancel, headers=session)).status_code == 202
    await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
    answer = (await call).json()
    assert (answer["id"], answer["error"]["code"]) == ("slow", -32800)


async def test_a_disconnect_before_any_event_ends_the_call_at_once(bridge, tools):
    session = await bridge.session()
    call = asyncio.create_task(bridge.rpc("tools/call", {"name": "hang"}, **session))
    await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
    call.cancel()
    await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)


async def test_an_id_in_work_cannot_be_used_again(bridge, tools):
    session = await bridge.session()
    call = asyncio.create_task(bridge.rpc("tools/call", {"name": "hang"}, id=7, **session))
    await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
    assert (await bridge.rpc("ping", id=7, **session)).json()["error"]["code"] == -32600
    tools.release.set()
    assert (await call).json()["result"]["content"][0]["text"] == "released"


async def test_a_silent_call_becomes_a_stream_with_signs_of_life(start_bridge, tools):
    async with start_bridge(stream_after_s=0.05, keepalive_s=0.05) as bridge:
        session = await bridge.session()
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "hang"}}
        async with bridge.http.stream("POST", "/mcp", json=message, headers=session) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.aiter_lines()
            while await anext(lines) != ": keepalive":
                pass
            tools.release.set()
            rest = [line async for line in lines if line.startswith("data:")]
        assert json.loads(rest[-1].removeprefix("data: "))["result"]["content"][0]["text"] == "released"
