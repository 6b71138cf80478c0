"""Bodies and heads that are too large, too deep or too slow, on every route that reads one."""

import asyncio

import pytest
from narthex.keys import new_key

ROUTES = ["/mcp", "/mcp/stream", "/messages"]
DEADLINE_S = 5


async def raw(bridge, head, body=b""):
    """Sends bytes and gives the status and the head of the answer, and whether the connection was closed then."""
    url = bridge.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(head + body)
        await writer.drain()
        answer = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)).decode()
        await asyncio.wait_for(reader.read(), DEADLINE_S)
        return int(answer.split()[1]), answer.lower()
    finally:
        writer.close()


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_that_does_not_come_is_not_waited_for(start_bridge, path):
    async with start_bridge(body_timeout_s=0.05) as bridge:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
        for rest in (
            b"content-length: 100\r\n\r\n",
            b"content-length: 100\r\n\r\n{",
            b"transfer-encoding: chunked\r\n\r\n",
        ):
            status, answer = await raw(bridge, head + rest)
            assert status == 408 and "connection: close" in answer
        text = (await bridge.http.get("/metrics")).text
        assert 'narthex_bridge_refusals_total{reason="body_time"} 3.0' in text


async def test_the_body_of_a_stranger_is_not_waited_for_either(start_bridge, tmp_path):
    (tmp_path / "keys.toml").write_text(new_key("ann")[1].toml)
    async with start_bridge(body_timeout_s=0.05, api_key_file=tmp_path / "keys.toml") as bridge:
        head = b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
        assert (await raw(bridge, head))[0] == 408
        assert (await raw(bridge, head.replace(b"100", b"99999999")))[0] == 413


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_that_is_too_large_is_refused_before_or_while_it_comes(start_bridge, path):
    async with start_bridge(max_body_bytes=1024) as bridge:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
        for rest in (
            b"content-length: 1025\r\n\r\n",
            b"content-length: " + b"9" * 4400 + b"\r\n\r\n",
            b"transfer-encoding: chunked\r\n\r\n800\r\n" + b"x" * 0x800 + b"\r\n",
        ):
            status, _ = await raw(bridge, head + rest)
            assert status in (400, 413)  # a number that no server can read is its HTTP library's to refuse


@pytest.mark.parametrize("path", ROUTES)
async def test_json_that_is_too_deep_is_refused(bridge, path):
    session = await bridge.session()
    if path == "/messages":
        stream = bridge.http.stream("GET", "/sse")
        async with stream as opened:
            lines = opened.aiter_lines()
            await anext(lines)
            path = (await anext(lines)).removeprefix("data: ")
            answer = await deep(bridge, path, session)
    else:
        answer = await deep(bridge, path, session)
    assert answer.status_code == 400 and "nested deeper" in answer.text


async def deep(bridge, path, session):
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b'{"a":' * 150 + b"1" + b"}" * 151
    return await bridge.http.post(path, content=body, headers={**session, "content-type": "application/json"})


async def test_a_head_that_is_too_large_is_refused(start_bridge):
    async with start_bridge(max_header_bytes=4096) as bridge:
        head = b"GET /mcp/list HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-filler: "
        assert (await raw(bridge, head + b"x" * 2048 + b"\r\n\r\n"))[0] == 200
        assert (await raw(bridge, head + b"x" * 70_000 + b"\r\n\r\n"))[0] in (400, 431)
        assert (await bridge.http.get("/mcp/list")).status_code == 200
