"""Forwarding to a real server behind a URL."""

import asyncio
import json

import pytest
from narthex_server.errors import DeadlineExceeded, Unavailable
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import Log, Progress


def text(events) -> str:
    return json.loads(events[-1].content)[0]["text"]


@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_calls_progress_and_logs_over_http(gateway, http_server, kind):
    async with http_server(kind) as url, gateway({"far": {"url": url, "type": kind}}) as running:
        assert running.status("far").state is ServerState.READY
        events = await running.call("far__steps", b'{"count":2}')
        assert [e.message for e in events if isinstance(e, Progress)] == ["step 1", "step 2"]
        assert [json.loads(e.data) for e in events if isinstance(e, Log)] == ["did 1", "did 2"]
        assert text(events) == "done"


async def test_headers_and_token_are_sent(gateway, http_server):
    async with (
        http_server() as url,
        gateway({"far": {"url": url, "headers": {"Authorization": "Bearer secret"}}}) as running,
    ):
        assert text(await running.call("far__header", b'{"name":"authorization"}')) == "Bearer secret"


async def test_a_call_that_hangs_over_http_is_cancelled_at_its_deadline(gateway, http_server):
    async with http_server() as url, gateway({"far": {"url": url}}) as running:
        with pytest.raises(DeadlineExceeded):
            await running.call("far__hang", seconds=0.5)
        async with asyncio.timeout(5):
            while text(await running.call("far__times_cancelled")) != "1":
                pass  # the closing of the stream has to reach the server


async def test_new_tools_appear_over_http(gateway, http_server):
    async with http_server() as url, gateway({"far": {"url": url}}) as running:
        await running.call("far__grow", b'{"name":"fresh"}')
        await running.until(lambda: "far__fresh" in running.names())


@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_a_server_that_goes_is_unavailable_and_comes_back_by_itself(gateway, http_server, kind):
    async with http_server(kind) as url, gateway({"far": {"url": url, "type": kind}}) as running:
        with pytest.raises(Unavailable, match="far"):
            await running.call("far__die", seconds=10)
        assert running.status("far").state is ServerState.UNHEALTHY
        async with http_server(kind):
            await running.until_ready("far")
            assert text(await running.call("far__echo", b'{"text":"back"}')) == "back"


async def test_many_calls_at_once_do_not_mix(gateway, http_server):
    async with http_server() as url, gateway({"far": {"url": url}}) as running:
        calls = [running.call("far__echo", json.dumps({"text": f"n{n}"}).encode()) for n in range(50)]
        assert [text(events) for events in await asyncio.gather(*calls)] == [f"n{n}" for n in range(50)]


async def test_a_refused_key_is_told_as_such(gateway, free_port):
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", free_port):
        url = f"http://127.0.0.1:{free_port}/mcp?key=s3cret"
        async with gateway({"far": {"url": url}, "old": {"url": url, "type": "sse"}}) as running:
            reasons = [status.reason for status in running.catalog.servers()]
    assert all("401 Unauthorized" in reason and "s3cret" not in reason for reason in reasons), reasons
