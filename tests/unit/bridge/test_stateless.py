"""Version 2026-07-28 over HTTP: every request stands alone."""

import asyncio
import base64
import json

import pytest

INFO = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
ACCEPTED = {"action": "accept", "content": {"said": "Ann"}}


def result(answer):
    assert answer.status_code == 200, answer.text
    found = answer.json()["result"]
    assert found["_meta"][INFO]["name"] == "narthex"
    return found


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return answer.json()["error"]


async def test_discover_tells_versions_and_capabilities(bridge):
    found = result(await bridge.stateless("server/discover"))
    assert found["resultType"] == "complete"
    assert found["supportedVersions"][0] == "2026-07-28" and "2024-11-05" in found["supportedVersions"]
    assert found["capabilities"]["tools"] == {"listChanged": True}
    assert found["ttlMs"] >= 0 and found["cacheScope"] == "private"


@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
async def test_what_a_request_has_to_bring_is_named(bridge, missing):
    error = refused(
        await bridge.stateless("server/discover", meta={f"io.modelcontextprotocol/{missing}": None}), 400, -32602
    )
    assert missing in error["message"]


async def test_a_request_without_meta_is_refused_by_its_header(bridge):
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}
    refused(await bridge.rpc("tools/list", {}, **headers), 400, -32602)


async def test_an_unknown_version_learns_the_known_ones(bridge):
    meta = {"io.modelcontextprotocol/protocolVersion": "2030-01-01"}
    answer = await bridge.stateless("tools/list", meta=meta, **{"mcp-protocol-version": "2030-01-01"})
    data = refused(answer, 400, -32022)["data"]
    assert data["requested"] == "2030-01-01" and "2026-07-28" in data["supported"] and "2025-11-25" in data["supported"]


@pytest.mark.parametrize(
    "headers",
    [
        {"mcp-protocol-version": "2025-11-25"},
        {"mcp-method": "tools/list"},
        {"mcp-method": "TOOLS/CALL"},
        {"mcp-name": "other"},
        {"mcp-name": "=?base64?ZWNobw=?="},
        {"mcp-name": "=?base64?ZW!Nobw==?="},
    ],
)
async def test_headers_that_say_something_else_are_refused(bridge, headers):
    refused(await bridge.stateless("tools/call", {"name": "echo"}, **headers), 400, -32020)


@pytest.mark.parametrize("missing", ["mcp-protocol-version", "mcp-method", "mcp-name"])
async def test_missing_headers_are_refused(bridge, missing):
    request = bridge.stateless_request("tools/call", {"name": "echo"})
    del request.headers[missing]
    refused(await bridge.http.send(request), 400, -32020)


async def test_a_header_given_twice_is_refused(bridge):
    request = bridge.stateless_request("tools/call", {"name": "echo"})
    twice = [*request.headers.raw, (b"mcp-name", b"echo")]
    again = bridge.http.build_request("POST", "/mcp", content=request.content, headers=twice)
    refused(await bridge.http.send(again), 400, -32020)


@pytest.mark.parametrize("name", ["echo", "=?base64?ZWNobw==?="])
async def test_a_name_may_be_encoded(bridge, name):
    found = result(
        await bridge.stateless("tools/call", {"name": "echo", "arguments": {"text": "x"}}, **{"mcp-name": name})
    )
    assert found["content"] == [{"type": "text", "text": "x"}] and found["resultType"] == "complete"


@pytest.mark.parametrize("method", ["ping", "logging/setLevel", "resources/subscribe", "initialize", "nothing"])
async def test_methods_of_other_versions_do_not_exist(bridge, method):
    answer = await bridge.stateless(method, {"uri": "test://a", "level": "info"}, id=7)
    refused(answer, 404, -32601)
    assert answer.json()["id"] == 7


async def test_an_initialize_opens_a_session_whatever_its_header_says(bridge):
    params = {"protocolVersion": "2026-07-28", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    answer = await bridge.rpc("initialize", params, **{"mcp-protocol-version": "2026-07-28"})
    assert answer.json()["result"]["protocolVersion"] == "2025-11-25"
    assert answer.headers["mcp-session-id"]


@pytest.mark.parametrize(
    ("method", "params", "member"),
    [
        ("tools/list", {}, "tools"),
        ("resources/list", {}, "resources"),
        ("resources/templates/list", {}, "resourceTemplates"),
        ("prompts/list", {}, "prompts"),
        ("resources/read", {"uri": "test://a"}, "contents"),
    ],
)
async def test_what_may_be_kept_says_for_how_long(bridge, method, params, member):
    found = result(await bridge.stateless(method, params))
    assert found["resultType"] == "complete" and found[member]
    assert found["ttlMs"] == (7 if method == "resources/read" else 5000) and found["cacheScope"] == "private"


async def test_a_resource_that_does_not_exist_is_named(bridge):
    error = refused(await bridge.stateless("resources/read", {"uri": "test://gone"}), 400, -32602)
    assert error["data"] == {"uri": "test://gone"}


async def test_a_missing_capability_is_told_with_its_own_code(bridge):
    error = refused(await bridge.stateless("tools/call", {"name": "needs"}), 400, -32021)
    assert error["data"] == {"requiredCapabilities": {"sampling": {}}}


async def test_a_client_that_wants_no_logs_gets_none(bridge, tools):
    answer = await bridge.stateless("tools/call", {"name": "logs"})
    assert answer.headers["content-type"] == "application/json"
    assert tools.contexts[-1].log_level == 9  # off
    level = {"io.modelcontextprotocol/logLevel": "error"}
    answer = await bridge.stateless("tools/call", {"name": "logs"}, meta=level)
    assert [json.loads(line[6:]).get("method") for line in answer.text.split("\n") if line.startswith("data: ")] == [
        "notifications/message",
        None,
    ]


async def test_what_is_not_between_us_goes_to_the_upstream(bridge, tools):
    await bridge.stateless("tools/call", {"name": "echo"}, meta={"traceparent": "00-1", "progressToken": 3})
    assert json.loads(tools.contexts[-1].meta) == {"traceparent": "00-1"}
    assert json.loads(tools.contexts[-1].client_capabilities) == {}


async def test_completion_knows_the_arguments_already_given(bridge):
    params = {
        "ref": {"type": "ref/prompt", "name": "greet"},
        "argument": {"name": "who", "value": "A"},
        "context": {"arguments": {"how": "loud"}},
    }
    found = result(await bridge.stateless("completion/complete", params))
    assert found["completion"] == {"values": ["greet/A", "loud"], "total": 9, "hasMore": False}


# What a tool, a resource or a prompt wants first.


async def test_a_tool_that_ends_with_what_it_wants_is_called_again_with_the_answers(bridge, tools):
    asked = result(await bridge.stateless("tools/call", {"name": "asks"}))
    for step in (b"s1", b"s2"):
        assert asked["resultType"] == "input_required"
        assert asked["inputRequests"]["name"]["method"] == "elicitation/create"
        retry = {"name": "asks", "inputResponses": {"name": ACCEPTED}, "requestState": asked["requestState"]}
        asked = result(await bridge.stateless("tools/call", retry, id=step.decode()))
        assert tools.contexts[-1].request_state == step
    assert asked["resultType"] == "complete"
    assert json.loads(asked["content"][0]["text"]) == {"name": ACCEPTED}


async def test_a_tool_that_waits_goes_on_with_the_answers(bridge, tools):
    asked = result(await bridge.stateless("tools/call", {"name": "waits"}))
    assert set(asked["inputRequests"]) == {"name", "age"}
    some = {"name": "waits", "inputResponses": {"name": ACCEPTED}, "requestState": asked["requestState"]}
    asked = result(await bridge.stateless("tools/call", some, id=2))
    assert set(asked["inputRequests"]) == {"age"}
    rest = {"name": "waits", "inputResponses": {"age": ACCEPTED, "x": {}}, "requestState": asked["requestState"]}
    done = result(await bridge.stateless("tools/call", rest, id=3))
    assert json.loads(done["content"][0]["text"]) == {"age": ACCEPTED, "name": ACCEPTED}
    assert len(tools.contexts) == 1  # one call all the time
    refused(await bridge.stateless("tools/call", rest, id=4), 400, -32602)


@pytest.mark.parametrize(
    ("method", "params"), [("resources/read", {"uri": "test://asks"}), ("prompts/get", {"name": "asks"})]
)
async def test_resources_and_prompts_may_want_something_too(bridge, tools, method, params):
    params = {**params, "arguments": {"who": "you"}} if method == "prompts/get" else params
    asked = result(await bridge.stateless(method, params))
    assert asked["resultType"] == "input_required"
    params = {**params, "inputResponses": {"name": ACCEPTED}, "requestState": asked["requestState"]}
    found = result(await bridge.stateless(method, params))
    assert found["resultType"] == "complete"
    assert tools.contexts[-1].request_state in (b"r1", b"p1")


@pytest.mark.parametrize(
    "change",
    [
        {"requestState": "forged"},
        {"requestState": "é"},
        {"name": "waits"},
        {"arguments": {"other": 1}},
    ],
)
async def test_a_state_holds_for_its_own_request_only(bridge, change):
    asked = result(await bridge.stateless("tools/call", {"name": "asks"}))
    retry = {"name": "asks", "inputResponses": {"name": ACCEPTED}, "requestState": asked["requestState"], **change}
    refused(await bridge.stateless("tools/call", retry), 400, -32602)


async def test_every_changed_byte_of_a_state_is_noticed(bridge):
    state = result(await bridge.stateless("tools/call", {"name": "asks"}))["requestState"]
    raw = base64.urlsafe_b64decode(state + "=" * (-len(state) % 4))
    for at in range(len(raw)):
        changed = base64.urlsafe_b64encode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]).decode().rstrip("=")
        refused(await bridge.stateless("tools/call", {"name": "asks", "requestState": changed}), 400, -32602)


async def test_answers_without_a_state_go_to_the_upstream_as_they_are(bridge, tools):
    await bridge.stateless("tools/call", {"name": "asks", "inputResponses": {"wrong": {}}})
    assert json.loads(tools.contexts[-1].input_responses) == {"wrong": {}}


@pytest.mark.parametrize("responses", [[], "x", {"name": 3}])
async def test_answers_of_the_wrong_shape_are_refused(bridge, responses):
    refused(await bridge.stateless("tools/call", {"name": "asks", "inputResponses": responses}), 400, -32602)


async def test_a_held_call_that_nobody_comes_back_for_ends(start_bridge, tools):
    async with start_bridge(input_timeout_s=1) as bridge:
        asked = result(await bridge.stateless("tools/call", {"name": "waits"}))
        await asyncio.wait_for(tools.cancelled.wait(), 5)
        retry = {"name": "waits", "inputResponses": {}, "requestState": asked["requestState"]}
        refused(await bridge.stateless("tools/call", retry), 400, -32602)


# Listening.


async def listen(bridge, **wanted):
    request = bridge.stateless_request("subscriptions/listen", {"notifications": wanted}, id="l1")
    return await bridge.http.send(request, stream=True)


async def told(lines):
    async with asyncio.timeout(5):
        async for line in lines:
            if line.startswith("data: "):
                return json.loads(line[6:])
    return None


async def test_a_listener_hears_what_it_asked_for_and_nothing_else(bridge, tools):
    await asyncio.wait_for(tools.watching.wait(), 5)
    answer = await listen(bridge, promptsListChanged=True, resourceSubscriptions=["test://a"], other=True)
    lines = answer.aiter_lines()
    first = await told(lines)
    assert first["method"] == "notifications/subscriptions/acknowledged"
    assert first["params"]["_meta"] == {SUBSCRIPTION: "l1"}
    assert first["params"]["notifications"] == {"promptsListChanged": True, "resourceSubscriptions": ["test://a"]}
    await tools.change("echo")
    await tools.change_prompts()
    heard = await told(lines)
    assert heard["method"] == "notifications/prompts/list_changed"
    assert heard["params"]["_meta"] == {SUBSCRIPTION: "l1"}
    await asyncio.wait_for(tools.resource_watched.wait(), 5)
    await tools.watched["test://a"].put("test://a")
    heard = await told(lines)
    assert heard["method"] == "notifications/resources/updated" and heard["params"]["uri"] == "test://a"
    await answer.aclose()
    await asyncio.wait_for(tools.unwatched.wait(), 5)  # nobody listens any more


async def test_a_listener_is_told_the_end(bridge, tools):
    answer = await listen(bridge, toolsListChanged=True)
    lines = answer.aiter_lines()
    await told(lines)
    stopping = asyncio.create_task(bridge.stop())
    last = await told(lines)
    assert last["id"] == "l1" and last["result"]["_meta"][SUBSCRIPTION] == "l1"
    await answer.aclose()
    await stopping


async def test_leaving_the_stream_cancels_the_call(bridge, tools):
    request = bridge.stateless_request("tools/call", {"name": "hang"}, meta={"progressToken": 1})
    answer = await bridge.http.send(request, stream=True)
    await asyncio.wait_for(tools.hanging.wait(), 5)
    await answer.aclose()
    await asyncio.wait_for(tools.cancelled.wait(), 5)


async def test_notifications_are_taken_and_batches_are_not(bridge):
    headers = {"mcp-protocol-version": "2026-07-28"}
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    assert (await bridge.http.post("/mcp", json=note, headers=headers)).status_code == 202
    assert (await bridge.http.post("/mcp", json=[note, note], headers=headers)).status_code == 400


async def test_replicas_with_one_secret_take_each_others_states(start_bridge, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 2)
    async with (
        start_bridge(secret_file=secret) as first,
        start_bridge(secret_file=secret) as second,
        start_bridge() as other,
    ):
        asked = result(await first.stateless("tools/call", {"name": "asks"}))
        retry = {"name": "asks", "inputResponses": {"name": ACCEPTED}, "requestState": asked["requestState"]}
        assert result(await second.stateless("tools/call", retry))["resultType"] == "input_required"
        refused(await other.stateless("tools/call", retry), 400, -32602)


@pytest.mark.parametrize(("face", "path"), [("legacy_sse", "/sse"), ("direct", "/mcp/list")])
async def test_a_face_that_is_switched_off_is_not_there(start_bridge, face, path):
    async with start_bridge(**{face: False}) as bridge:
        assert (await bridge.http.get(path)).status_code == 404
