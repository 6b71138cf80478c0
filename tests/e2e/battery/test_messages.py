"""JSON-RPC as nobody should write it, in every version."""

import json

import pytest

TOOL = "time__get_current_time"
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
STATELESS = "2026-07-28"
META = "io.modelcontextprotocol/"


def asking(arguments: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%b","arguments":%b}}' % (
        TOOL.encode(),
        arguments,
    )


def pinging(id: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % id


UNREADABLE = {
    "nothing": b"",
    "space": b" \r\n ",
    "half": asking(b"{}")[:-1],
    "two": pinging(b"1") * 2,
    "NaN": asking(b'{"timezone":NaN}'),
    "Infinity": asking(b'{"timezone":-Infinity}'),
    "beyond doubles": asking(b'{"timezone":1e400}'),
    "5000 digits": asking(b'{"timezone":' + b"1" * 5000 + b"}"),
    "half a surrogate": asking(b'{"timezone":"\\ud800"}'),
    "a surrogate in UTF-8": asking(b'{"timezone":"\xed\xa0\x80"}'),
    "no UTF-8": asking(b'{"timezone":"\xff"}'),
    "overlong UTF-8": asking(b'{"timezone":"\xc0\xaf"}'),
    "BOM": b"\xef\xbb\xbf" + pinging(b"1"),
    "UTF-16": pinging(b"1").decode().encode("utf-16"),
    "control characters": asking(b'{"timezone":"a\nb"}'),
    "100000 levels": asking(b"[" * 100_000 + b"]" * 100_000),
}

NO_MESSAGE = {
    "null": b"null",
    "a number": b"1",
    "a string": b'"ping"',
    "no version": b'{"id":1,"method":"ping"}',
    "version 1.0": b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    "a method that is no name": b'{"jsonrpc":"2.0","id":1,"method":{}}',
    "params in an array": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}',
    "1000 levels": asking(b"[" * 900 + b"]" * 900),
    "an answer without id": b'{"jsonrpc":"2.0","id":null,"result":{}}',
    **{
        f"id {id.decode()[:9]}": pinging(id)
        for id in (b"null", b"1.5", b"1.0", b"true", b"{}", b"[1]", b"18446744073709551616")
    },
}

QUIET = {
    "an answer that nobody asked for": {"jsonrpc": "2.0", "id": 99, "result": {}},
    "an error that nobody asked for": {"jsonrpc": "2.0", "id": "x", "error": {"code": 1, "message": "x"}},
    "both": {"jsonrpc": "2.0", "id": 99, "result": {}, "error": {"code": 1, "message": "x"}},
    "a request without id": {"jsonrpc": "2.0", "method": "tools/list"},
    "an unknown notification": {"jsonrpc": "2.0", "method": "x"},
    **{
        f"cancel {target}": {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": target}}
        for target in (77, "77", None, True, 1.5, [1], {"a": 1}, "a" * 1000)
    },
    "cancel nothing": {"jsonrpc": "2.0", "method": "notifications/cancelled"},
}  # fmt: skip

WRONG = {
    "an unknown method": ("nobody/knows", {}, -32601),
    "a notification with an id": ("notifications/initialized", {}, -32601),
    "a method with line breaks": ("a\r\nX: y\u2028", {}, -32601),
    "a tool with line breaks": ("tools/call", {"name": "a\r\nb: c\0\u2028"}, -32602),
    "a tool of 900 kB": ("tools/call", {"name": "a" * 900_000}, -32602),
    "arguments in an array": ("tools/call", {"name": TOOL, "arguments": []}, -32602),
    "a resource with line breaks": ("resources/read", {"uri": "test://a\r\nSet-Cookie: b"}, -32002),
    "a file": ("resources/read", {"uri": "file:///etc/passwd"}, -32002),
    "a resource of 900 kB": ("resources/subscribe", {"uri": "x:" + "a" * 900_000}, -32602),
    "a prompt's number": ("prompts/get", {"name": "x", "arguments": {"a": 1}}, -32602),
    "a cursor of nobody": ("tools/list", {"cursor": "AAAA"}, -32602),
    "a cursor in Arabic": ("tools/list", {"cursor": "\u0661\u00e9"}, -32602),
    "a cursor of 900 kB": ("tools/list", {"cursor": "A" * 900_000}, -32602),
    "a cursor in a list": ("tools/list", {"cursor": []}, -32602),
    "a level in a list": ("logging/setLevel", {"level": []}, -32602),
    "a reference without names": (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": 1}, "argument": {"name": [], "value": {}}},
        -32602,
    ),
    "two faults at once": ("initialize", {"protocolVersion": 1, "capabilities": []}, -32602),
}  # fmt: skip


@pytest.fixture
async def session(wire):
    return await wire.session()


@pytest.mark.parametrize("bodies", [UNREADABLE, NO_MESSAGE], ids=["unreadable", "no message"])
async def test_bodies_that_are_no_message_are_400_and_the_connection_goes_on(wire, session, bodies):
    for name, body in bodies.items():
        answer = await wire.post(body, *session.lines)
        expected = {-32700} if bodies is UNREADABLE else {-32600}
        assert answer.status == 400 and answer.code in expected, (name, answer)
        assert (await wire.post(pinging(b"7"), *session.lines)).json == {"jsonrpc": "2.0", "id": 7, "result": {}}


@pytest.mark.parametrize("id", [b"0", b"-9223372036854775808", b"18446744073709551615", b'""', b'"\\u2028"', b'"1"'])
async def test_ids_come_back_as_they_were(wire, session, id):
    answer = await wire.post(pinging(id), *session.lines)
    assert answer.status == 200 and answer.json["id"] == json.loads(id)


async def test_what_asks_for_nothing_gets_nothing(wire, session):
    for name, message in QUIET.items():
        answer = await wire.post(message, *session.lines)
        assert (answer.status, answer.body) == (202, b""), name


async def test_wrong_requests_get_the_error_of_their_fault(wire, session, rpc):
    for name, (method, params, code) in WRONG.items():
        lines = session.lines if method != "initialize" else ()
        answer = await wire.post(rpc(method, params), *lines)
        assert answer.status == 200 and answer.code == code, (name, answer.body[:300])
        assert "set-cookie" not in answer.headers


async def test_of_repeated_names_the_last_counts_everywhere(wire, session):
    last = asking(b'{"timezone":"UTC","timezone":"Nowhere"},"arguments":{"timezone":"Nowhere","timezone":"UTC"}')
    assert (await wire.post(last, *session.lines)).json["result"].get("isError") is not True
    params = b'"params":{"name":"nobody","arguments":{}},"params":{"name":"%b","arguments":{"timezone":"UTC"}}'
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call",' + params % TOOL.encode() + b"}"
    assert "error" not in (await wire.post(body, *session.lines)).json


async def test_line_breaks_reach_tools_and_come_back_in_whole_events(wire, session, rpc):
    """An upstream over stdio reads lines: arguments with line breaks between their tokens are one line to it."""
    pretty = asking(b'{\r\n\n  "timezone"\n:\r"UTC"\r\n}')
    assert (await wire.post(pretty, *session.lines)).json["result"].get("isError") is not True
    text = "a\u2028b\u2029c\u0085d\r\ne\x0bf\x1cg"
    params = {
        "name": "fixture__test_prompt_with_arguments",
        "arguments": {"arg1": text, "arg2": "\x00\uffff\U0010ffff"},
    }
    for path, accept in (("/mcp", "text/event-stream"), ("/mcp/stream", "*/*")):
        lines = session.lines if path == "/mcp" else ()
        answer = await wire.post(rpc("prompts/get", params), *lines, path=path, accept=accept)
        message = json.loads(answer.events[-1])
        assert text in message["result"]["messages"][0]["content"]["text"]
        assert b"\r" not in answer.body
    for id in ("\u2028", "\r\n", "data: x\n\n"):
        answer = await wire.post(rpc("ping", id=id), *session.lines, accept="text/event-stream")
        assert json.loads(answer.events[-1]) == {"jsonrpc": "2.0", "id": id, "result": {}}


@pytest.mark.parametrize("version", VERSIONS)
async def test_batches_are_for_the_version_that_has_them(wire, rpc, version):
    session = await wire.session(version=version)
    assert session.opened["protocolVersion"] == version
    batches = {
        "empty": [],
        "too many": [rpc("ping", id=number) for number in range(65)],
        "initialize": [rpc("initialize", {"protocolVersion": version, "capabilities": {}}), rpc("ping", id=2)],
    }
    for name, batch in batches.items():
        answer = await wire.post(batch, *session.lines)
        assert (answer.status, answer.code) == (400, -32600), name
    mixed = [rpc("ping"), {"jsonrpc": "2.0", "method": "x"}, 1, QUIET["both"], rpc("nobody", id=2), rpc("ping", id="1")]
    answer = await wire.post(mixed, *session.lines)
    if version != "2025-03-26":
        assert (answer.status, answer.code) == (400, -32600)
        return
    found = {repr(one["id"]): one.get("error", {}).get("code") for one in answer.json}
    assert found == {"1": None, "None": -32600, "2": -32601, "'1'": None}
    same = [one.get("error", {}).get("code") for one in (await wire.post([rpc("ping")] * 3, *session.lines)).json]
    assert same == [None, -32600, -32600]
    assert (await wire.post([QUIET["both"]] * 2, *session.lines)).status == 202


async def test_versions_that_nobody_speaks_get_the_latest_one(wire, rpc):
    for wanted in (STATELESS, "1999-01-01", "", "x" * 1000, "2025-11-25 "):
        answer = await wire.post(rpc("initialize", {"protocolVersion": wanted, "capabilities": {}}))
        assert answer.json["result"]["protocolVersion"] == VERSIONS[-1]


async def test_headers_that_name_no_version_are_refused_and_others_do_not_change_the_session(wire, session, rpc):
    name = f"Mcp-Session-Id: {session.id}"
    for named in ("1999-01-01", "", f"{VERSIONS[-1]}, {VERSIONS[-1]}", "é"):
        answer = await wire.post(rpc("ping"), name, f"Mcp-Protocol-Version: {named}")
        assert (answer.status, answer.code) == (400, -32022)
    for lines in ((name,), (name, "Mcp-Protocol-Version: 2024-11-05")):  # which has no titles and no annotations
        answer = await wire.post(rpc("tools/list"), *lines)
        assert any("title" in tool for tool in answer.json["result"]["tools"])


async def test_a_stateless_request_says_the_same_in_its_head_and_its_body(wire, session, rpc):
    params = {"_meta": {f"{META}protocolVersion": STATELESS, f"{META}clientCapabilities": {}}}
    good = (f"Mcp-Protocol-Version: {STATELESS}", "Mcp-Method: tools/list")
    assert (await wire.post(rpc("tools/list", params), *good)).json["result"]["resultType"] == "complete"
    for lines, body, code in (
        ((), params, -32020),
        (good[:1], params, -32020),
        ((good[0], "Mcp-Method: tools/call"), params, -32020),
        ((good[0], good[1], good[1]), params, -32020),
        ((f"Mcp-Protocol-Version: {VERSIONS[-1]}", good[1]), params, -32020),
        (good, {}, -32602),
        (good, {"_meta": {f"{META}protocolVersion": STATELESS}}, -32602),
        ((f"Mcp-Protocol-Version: {VERSIONS[0]}", good[1]),
         {"_meta": params["_meta"] | {f"{META}protocolVersion": VERSIONS[0]}}, -32022),
    ):  # fmt: skip
        answer = await wire.post(rpc("tools/list", body), *lines)
        assert (answer.status, answer.code) == (400, code), lines


async def test_other_media_types_are_refused(wire, session):
    kinds = (
        "text/plain",
        "",
        "application/jsonp",
        "application/json-patch+json",
        "multipart/form-data",
        "a, application/json",
    )
    for kind in kinds:
        assert (await wire.post(pinging(b"1"), *session.lines, kind=kind)).status == 415, kind
    for kind in ("APPLICATION/JSON", "application/json;charset=UTF-8", "application/json ; a=b"):
        assert (await wire.post(pinging(b"1"), *session.lines, kind=kind)).status == 200, kind
    for accept in ("text/html", "x" * 5000, "image/*"):
        assert (await wire.post(pinging(b"1"), *session.lines, accept=accept)).status == 406, accept
        assert (await wire.get("/mcp", *session.lines, accept=accept)).status == 406


async def test_ids_of_sessions_and_events_that_were_never_given_are_nobodys(wire, session, rpc):
    for name in (
        "x",
        "",
        session.id + "x",
        session.id[:-1],
        session.id.swapcase(),
        f"../{session.id}",
        "é",
        "a" * 5000,
    ):
        assert (await wire.post(rpc("ping"), f"Mcp-Session-Id: {name}")).status == 404
    for place in ("", "x", "../../x", "00000000-get-1", "a" * 3000, "é"):
        answer = await wire.get("/mcp", *session.lines, f"Last-Event-ID: {place}")
        assert answer.status == 400, place
    chosen = await wire.post(
        rpc("initialize", {"protocolVersion": VERSIONS[-1], "capabilities": {}}), "Mcp-Session-Id: chosen-by-me"
    )
    assert chosen.headers["mcp-session-id"] != "chosen-by-me"
    assert (await wire.get("/mcp", *session.lines, method="DELETE")).status == 204
    assert (await wire.post(rpc("ping"), *session.lines)).status == 404
