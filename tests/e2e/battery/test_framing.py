"""Where a request ends: what two readers could read as different requests is refused, and its connection closed."""

import asyncio
import re

import pytest

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
MCP = b"POST /mcp HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
NEXT = b"GET /healthz HTTP/1.1\r\nHost: HOST\r\n\r\n"
HIDDEN = b"0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: HOST\r\n\r\n"
CHUNKED = b"28\r\n" + PING + b"\r\n0\r\n\r\n"

REFUSED = {
    "CL.TE": MCP + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "TE.CL": MCP + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + CHUNKED,
    "TE.CL, folded": MCP + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 4\r\n\r\n" + CHUNKED,
    "TE.CL, LF": MCP.replace(b"\r", b"") + b"Transfer-Encoding: chunked\nContent-Length: 4\n\n" + CHUNKED,
    "two lengths": MCP + b"Content-Length: 40\r\nContent-Length: 4\r\n\r\n" + PING,
    "length with a sign": MCP + b"Content-Length: +40\r\n\r\n" + PING,
    "length in hex": MCP + b"Content-Length: 0x28\r\n\r\n" + PING,
    "negative length": MCP + b"Content-Length: -40\r\n\r\n" + PING,
    "empty length": MCP + b"Content-Length:\r\n\r\n" + PING,
    "length beyond numbers": MCP + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + PING,
    "length in superscript": MCP + b"Content-Length: \xb2\r\n\r\n" + PING,
    "space before the colon": MCP + b"Content-Length : 40\r\n\r\n" + PING,
    "tab before chunked": MCP + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKED,
    "a coding of nobody": MCP + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "chunked twice": MCP + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "identity and chunked": MCP + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    "gzip and chunked": MCP + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "chunked in HTTP/1.0": MCP.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "a chunk's end in LF": MCP + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED.replace(b"\r", b""),
    "LF in a chunk's extension": MCP + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED.replace(b"28", b"28;\nx"),
    "a chunk of negative size": MCP + b"Transfer-Encoding: chunked\r\n\r\n-" + CHUNKED,
    "a chunk longer than it says": MCP + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED.replace(b"0\r\n\r\n", b"X0"),
    "CR alone": b"GET /healthz HTTP/1.1\rHost: HOST\r\n\r\n",
    "CR in a value": NEXT.replace(b"\r\n\r\n", b"\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n"),
    "NUL in a value": NEXT.replace(b"\r\n\r\n", b"\r\nX: a\0b\r\n\r\n"),
    "a folded first line": NEXT.replace(b"Host", b" X: y\r\nHost"),
    "a second Host": NEXT.replace(b"Host", b"Host: evil.example\r\nHost"),
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "a target of another host": NEXT.replace(b"/healthz", b"http://evil.example/healthz"),
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/1.2": NEXT.replace(b"1.1", b"1.2"),
    "HTTP/2.0": NEXT.replace(b"1.1", b"2.0"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100,
    "every byte": bytes(range(256)) * 4,
    "a head without end": b"GET /healthz HTTP/1.1\r\nHost: HOST\r\nX: " + b"a" * 200_000,
}

TAKEN = {
    "equal lengths": (MCP + b"Content-Length: 40\r\nContent-Length: 40\r\n\r\n" + PING, [200]),
    "chunked": (MCP + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED, [200]),
    "chunk extensions": (MCP + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED.replace(b"28", b"28;a=b"), [200]),
    "trailers": (
        MCP + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED[:-2] + b"Content-Length: 9\r\nHost: evil\r\n\r\n",
        [200],
    ),
    "100-continue": (MCP + b"Expect: 100-continue\r\nContent-Length: 40\r\n\r\n" + PING, [100, 200]),
    "what nobody expects": (MCP + b"Expect: miracles\r\nContent-Length: 40\r\n\r\n" + PING, [200]),
    "a folded value": (NEXT.replace(b"\r\n\r\n", b"\r\nX: a\r\n Content-Length: 9\r\n\r\n"), [200]),
    "a body of GET": (NEXT.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nGET /"), [200]),
    "a target of this host": (NEXT.replace(b"/healthz", b"http://HOST/healthz"), [200]),
    "LF alone": (NEXT.replace(b"\r", b""), [200]),
    "a thousand headers": (NEXT.replace(b"\r\n\r\n", b"\r\n" + b"x: a\r\n" * 1000 + b"\r\n"), [200]),
    "HEAD": (NEXT.replace(b"GET", b"HEAD"), [200]),
    "TRACE": (NEXT.replace(b"GET", b"TRACE"), [405]),
    "CONNECT": (NEXT.replace(b"GET /healthz", b"CONNECT evil.example:80"), [404]),
    "a WebSocket": (NEXT.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), [200]),
    "h2c": (NEXT.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"), [200]),
}

PATHS = {
    "/mcp": 406, "/%6dcp": 406, "/mcp?api_key=x": 406, "/mcp/": 404, "//mcp": 406, "/%2fmcp": 406, "/MCP": 404,
    "/mcp/../metrics": 404, "/mcp/..%2fmetrics": 404, "/%2e%2e/metrics": 404, "/./mcp": 404, "/mcp;a=b": 404,
    "/mcp%00": 404, "/mcp%0d%0aSet-Cookie:%20a=b": 404, "/mcp#a": 404, "/v1//models": 404, "/v1/models/%ff": 404,
    "/v1/models/../../metrics": 404, "/v1/models/a%0d%0ab": 404, "/.env": 404,
}  # fmt: skip


def addressed(wire, data):
    return data.replace(b"HOST", wire.host.encode())


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_be_read_in_two_ways_ends_the_connection(wire, name):
    await wire.get("/healthz")
    wire.send(addressed(wire, REFUSED[name] + NEXT))
    status, headers = await wire.head()
    assert status in (400, 431, 501, 505) and headers["connection"] == "close"
    assert b"HTTP/1.1" not in await wire.closed()


@pytest.mark.parametrize("name", TAKEN)
async def test_what_is_clear_is_answered_and_so_is_what_comes_after(wire, name):
    data, statuses = TAKEN[name]
    for _ in range(2):
        wire.send(addressed(wire, data + NEXT))
        for status in statuses:
            assert (await wire.answer(name)).status == status
        assert (await wire.answer()).body == b'{"status":"ok"}'


async def test_requests_that_are_sent_ahead_are_answered_in_their_order(wire):
    statuses = []
    for number in range(300):
        body = b'{"jsonrpc":"2.0","id":%d,"method":"ping"}' % number
        wire.send(wire.request("POST", "/mcp/stream", body) if number % 3 else addressed(wire, NEXT))
    for number in range(300):
        answer = await wire.answer()
        statuses.append(answer.status)
        assert number % 3 == 0 or answer.events == [b'{"jsonrpc":"2.0","id":%d,"result":{}}' % number]
    assert statuses == [200] * 300


@pytest.mark.parametrize("path", PATHS)
async def test_paths_mean_what_they_say(wire, path):
    answer = await wire.get(path, accept="application/json")
    assert answer.status == PATHS[path] and "location" not in answer.headers
    assert b"process_resident" not in answer.body and "set-cookie" not in answer.headers


async def test_http_1_0_is_answered_and_closed(wire):
    wire.send(addressed(wire, b"GET /mcp/list HTTP/1.0\r\nHost: HOST\r\n\r\n"))
    status, headers = await wire.head()
    assert status == 200 and "transfer-encoding" not in headers
    assert b'"tools"' in await wire.closed()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "localhost.evil",
        "",
        "[::2]",
        "2130706433",
    ],
)
@pytest.mark.parametrize("path", ["/mcp/list", "/v1/models", "/metrics"])
async def test_a_rebound_name_reaches_nothing(wire, host, path):
    wire.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert (await wire.answer()).status == 403


async def test_what_a_client_names_is_in_no_header_of_the_answer(wire):
    for line in ("x-request-id: a\tb", "x-request-id: é", "x-request-id: " + "a" * 200, "x-request-id: a, b"):
        answer = await wire.get("/healthz", line)
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert (await wire.get("/healthz", "x-request-id: mine-1")).headers["x-request-id"] == "mine-1"
    answer = await wire.get("/mcp/list", "Origin: http://localhost\x80\xff/\xe9")
    assert answer.status in (200, 403)


@pytest.mark.parametrize("names", [7000, 2300])
async def test_a_flood_of_headers_holds_up_nobody(bridge, connect, names):
    flooding, other = await connect(bridge), await connect(bridge)
    lines = [f"a{number:x}:" for number in range(names)]
    flooding.send(flooding.request("GET", "/mcp/list", b"", *lines, "b: 1", "b: 2"))
    async with asyncio.timeout(2):
        assert (await other.get("/healthz")).status == 200
        assert (await flooding.answer()).status in (200, 431)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/stream", "/v1/chat/completions", "/v1/messages", "/messages"])
async def test_bodies_that_are_too_large_or_too_slow_are_refused(bridge, connect, path):
    for lines, body, status in (
        (("Content-Length: 1048577",), b"", 413),
        (("Transfer-Encoding: chunked",), b"10000\r\n" + b"x" * 0x10000 + b"\r\n", 413),
        (("Content-Length: 100",), b"{", 408),
        (("Transfer-Encoding: chunked",), b"2\r\n{}\r\n", 408),
        (("Transfer-Encoding: chunked",), b"FFFFFFFFFFFFFFFF0\r\n{}", 408),
    ):
        wire = await connect(bridge)
        head = [f"POST {path} HTTP/1.1", f"Host: {wire.host}", "Content-Type: application/json", *lines]
        wire.send("\r\n".join(head).encode() + b"\r\n\r\n" + body * (17 if status == 413 else 1))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        await wire.closed()
