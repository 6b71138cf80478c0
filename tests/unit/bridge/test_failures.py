"""Bad input, a failing server, foreign browsers and unknown keys."""

import asyncio
import json

import grpc
import pytest
from narthex.keys import new_key
from narthex.v1 import tool_pb2_grpc


async def call(bridge, name, version="2025-11-25", **arguments):
    session = await bridge.session(version)
    return (await bridge.rpc("tools/call", {"name": name, "arguments": arguments}, **session)).json()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"", -32700),
        (b'{"a": NaN}', -32700),
        (b"\xff\xfe", -32700),
        (b'"text"', -32600),
        (b"[]", -32600),
        (b"[1]", -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600),
        (b"[" * 100_000, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b'{"a":' * 150 + b"1" + b"}" * 151, -32600),
    ],
)
async def test_malformed_messages_are_told_what_is_wrong(bridge, body, code):
    session = await bridge.session("2025-03-26")
    answer = await bridge.http.post("/mcp", content=body, headers={**session, "content-type": "application/json"})
    found = answer.json()
    assert (found[0] if isinstance(found, list) else found)["error"]["code"] == code
    assert (await bridge.rpc("ping", **session)).json()["result"] == {}


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("server/nothing", {}, -32601),
        ("tools/call", {}, -32602),
        ("tools/call", {"name": 3}, -32602),
        ("tools/call", {"name": "echo", "arguments": "text"}, -32602),
        ("tools/list", {"cursor": 4}, -32602),
        ("initialize", {"protocolVersion": "2025-06-18"}, -32602),
    ],
)
async def test_requests_that_do_not_fit_are_errors(bridge, method, params, code):
    session = await bridge.session()
    if method == "initialize":
        params, code = {}, -32602
    answer = await bridge.rpc(method, params, **session)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, code)


async def test_an_unknown_tool_is_invalid_params(bridge):
    error = (await call(bridge, "nothing"))["error"]
    assert error["code"] == -32602
    assert error["message"] == "There is no tool 'nothing'."
    assert error["data"]["reason"] == "TOOL_NOT_FOUND"


async def test_misfitting_arguments_are_for_the_model_in_the_latest_version(bridge):
    result = (await call(bridge, "strict"))["result"]
    assert result["isError"] is True
    assert "arguments.text: is not a string" in result["content"][0]["text"]
    error = (await call(bridge, "strict", "2025-06-18"))["error"]
    assert error["code"] == -32602
    assert error["data"]["violations"] == [{"field": "arguments.text", "description": "is not a string"}]


async def test_each_misfitting_argument_is_told_once(bridge):
    text = (await call(bridge, "repeats"))["result"]["content"][0]["text"]
    assert text == (
        "Arguments do not fit: zone: must be string, not integer; is too deep\none: must be string, not integer"
    )


async def test_an_upstream_that_is_down_may_be_tried_again(bridge):
    error = (await call(bridge, "down"))["error"]
    assert (error["code"], error["data"]["reason"], error["data"]["retryable"]) == (503, "UPSTREAM_DOWN", True)


async def test_a_servers_exception_does_not_show(bridge):
    answer = await call(bridge, "broken")
    assert answer["error"]["code"] == -32603
    assert "secret" not in json.dumps(answer)
    assert answer["error"]["data"]["requestId"] in answer["error"]["message"]


async def test_a_call_that_ends_without_a_result_is_an_error(bridge):
    assert (await call(bridge, "endless"))["error"]["code"] == -32603


async def test_the_call_deadline_holds(start_bridge, tools):
    async with start_bridge(call_timeout_s=0.2) as bridge:
        assert (await call(bridge, "hang"))["error"]["code"] == 504
    await asyncio.wait_for(tools.cancelled.wait(), 5)


async def test_calls_over_the_limit_are_told_to_retry(start_bridge, tools):
    async with start_bridge(max_calls=1) as bridge:
        session = await bridge.session()
        first = asyncio.create_task(bridge.rpc("tools/call", {"name": "hang"}, id=1, **session))
        await asyncio.wait_for(tools.hanging.wait(), 5)
        error = (await bridge.rpc("tools/call", {"name": "echo"}, id=2, **session)).json()["error"]
        assert (error["code"], error["data"]["retryable"]) == (429, True)
        tools.release.set()
        assert "result" in (await first).json()


async def test_sessions_over_the_limit_are_refused(start_bridge):
    async with start_bridge(max_sessions=1) as bridge:
        await bridge.session()
        answer = await bridge.rpc("initialize", {"protocolVersion": "2025-11-25"})
        assert answer.status_code == 503 and "retry-after" in answer.headers


async def test_idle_sessions_are_forgotten(start_bridge):
    async with start_bridge(session_idle_s=0.1) as bridge:
        session = await bridge.session()

        async def forgotten():
            while (await bridge.http.get("/metrics")).text.find("narthex_bridge_sessions 0.0") < 0:
                pass

        await asyncio.wait_for(forgotten(), 5)
        assert (await bridge.rpc("ping", **session)).status_code == 404


async def test_large_bodies_are_refused(start_bridge):
    async with start_bridge(max_body_bytes=2048) as bridge:
        session = await bridge.session()
        answer = await bridge.rpc("tools/call", {"name": "echo", "arguments": {"text": "x" * 4096}}, **session)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, -32600)
        assert (await bridge.rpc("ping", **session)).status_code == 200


async def test_wrong_media_types_methods_and_paths_are_refused(bridge):
    assert (await bridge.http.post("/mcp", content=b"{}", headers={"content-type": "text/plain"})).status_code == 415
    assert (await bridge.rpc("ping", accept="image/png")).status_code == 406
    for method in ("PUT", "HEAD"):
        answer = await bridge.http.request(method, "/mcp")
        assert answer.status_code == 405 and set(answer.headers["allow"].split(", ")) == {"GET", "POST", "DELETE"}
    answer = await bridge.http.get("/nowhere")
    assert answer.status_code == 404 and answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://HOST/mcp/list?a=b", 200),
        ("http://elsewhere/mcp/list", 400),
        ("http://[", 400),
        ("//mcp/list", 200),
        ("/mcp/list/", 404),
        ("*", 404),
    ],
)
async def test_a_target_is_a_path_or_a_whole_url(bridge, target, status):
    target = target.replace("HOST", bridge.url.removeprefix("http://"))
    assert (await bridge.http.get("/", extensions={"target": target.encode()})).status_code == status


async def test_websockets_are_refused_in_words(bridge):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    for path, member in (("/mcp", b"jsonrpc"), ("/v1/realtime", b"error"), ("/nowhere", b"jsonrpc")):
        await bridge.bridge.app({"type": "websocket", "path": path, "headers": []}, receive, send)
        start, body = sent[-2:]
        assert start["status"] == 400 and member in body["body"] and b"WebSocket" in body["body"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost.evil.example"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "http://[::1]:3000"}, 200),
        ({"origin": "https://app.example"}, 200),
        ({"host": "bridge.example:443"}, 200),
    ],
)
async def test_foreign_origins_and_rebound_hosts_are_refused(start_bridge, headers, status):
    async with start_bridge(allowed_origins=("https://app.example",), allowed_hosts=("bridge.example",)) as bridge:
        answer = await bridge.rpc("initialize", {"protocolVersion": "2025-11-25"}, **headers)
        assert answer.status_code == status


async def test_keys_are_needed_and_sessions_belong_to_their_caller(start_bridge, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("NARTHEX_DELEGATE_TOKEN", "token of the bridge")
    secrets = {}
    with (tmp_path / "keys.toml").open("w") as file:
        for name in ("ann", "bøb"):
            secrets[name], key = new_key(name, "t1")
            file.write(key.toml)
    async with start_bridge(api_key_file=tmp_path / "keys.toml") as bridge:
        answer = await bridge.rpc("ping")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="narthex"')
        answer = await bridge.rpc("ping", authorization="Bearer wrong")
        assert answer.status_code == 401 and "invalid_token" in answer.headers["www-authenticate"]
        ann = await bridge.session(authorization=f"Bearer {secrets['ann']}")
        bob = await bridge.session(authorization=f"bearer {secrets['bøb']}")
        stolen = {**ann, "authorization": bob["authorization"]}
        assert (await bridge.rpc("ping", **stolen)).status_code == 404
        await bridge.rpc("tools/call", {"name": "echo"}, **bob, **{"x-request-id": "my-request"})
        sent = tools.metadata[-1]
        assert sent["authorization"] == "Bearer token of the bridge"
        assert json.loads(sent["x-narthex-principal"]) == {"name": "bøb", "tenant": "t1"}
        assert sent["x-request-id"] == "my-request"
        assert (await bridge.http.get("/healthz")).status_code == 200


async def test_a_refused_request_does_not_cost_its_connection(start_bridge, tmp_path):
    (tmp_path / "keys.toml").write_text(new_key("ann")[1].toml)
    async with start_bridge(api_key_file=tmp_path / "keys.toml") as bridge:
        url = bridge.http.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        for _ in range(2):
            writer.write(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n")
            await writer.drain()
            await bridge.http.get("/healthz")  # meanwhile the bridge has seen the headers
            writer.write(b"{}")
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
            assert head.startswith("HTTP/1.1 401")
            await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        writer.close()


async def test_request_ids_are_kept_where_sane_and_made_where_not(bridge):
    for given, kept in (("abc-1", True), ("with space", False), ("x" * 200, False)):
        answer = await bridge.http.get("/healthz", headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) is kept
    assert (await bridge.rpc("ping")).headers["x-request-id"] != (await bridge.rpc("ping")).headers["x-request-id"]


async def test_the_bridge_outlives_its_server(start_bridge, tools):
    second = grpc.aio.server()
    tool_pb2_grpc.add_ToolServiceServicer_to_server(tools, second)
    address = f"127.0.0.1:{second.add_insecure_port('127.0.0.1:0')}"
    await second.start()
    from narthex.settings import Address

    async with start_bridge(server=Address.parse(address)) as bridge:
        assert "result" in await call(bridge, "echo")
        await second.stop(0)
        answer = await call(bridge, "echo")
        assert answer["error"]["code"] == 503
        assert address not in json.dumps(answer)
        assert (await bridge.http.get("/readyz")).status_code == 503
        assert (await bridge.http.get("/mcp/list")).status_code == 503
        assert (await bridge.http.get("/healthz")).status_code == 200
        third = grpc.aio.server()
        tool_pb2_grpc.add_ToolServiceServicer_to_server(tools, third)
        third.add_insecure_port(address)
        await third.start()

        async def recovered():
            while "result" not in await call(bridge, "echo"):
                pass

        await asyncio.wait_for(recovered(), 10)
        await third.stop(0)
