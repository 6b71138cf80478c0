"""Forwarding to a real server behind a WebSocket."""

import asyncio
import json
import ssl

import pytest
from narthex_server.errors import DeadlineExceeded, Unavailable
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import Log, Progress

from tests.e2e.upstreams.websocket_server import WebSocketServer


def text(events) -> str:
    return json.loads(events[-1].content)[0]["text"]


@pytest.fixture
def server() -> WebSocketServer:
    return WebSocketServer()


async def test_calls_progress_and_logs_over_a_websocket(gateway, server):
    async with server.served() as port, gateway({"far": {"url": f"ws://127.0.0.1:{port}"}}) as running:
        status = running.status("far")
        assert (status.state, status.transport) == (ServerState.READY, "websocket"), status
        events = await running.call("far__steps", b'{"count":2}')
        assert [e.message for e in events if isinstance(e, Progress)] == ["step 1", "step 2"]
        assert [json.loads(e.data) for e in events if isinstance(e, Log)] == ["did 1", "did 2"]
        large = "é" * 600_000
        calls = [running.call("far__echo", json.dumps({"text": t}).encode()) for t in (large, *map(str, range(20)))]
        assert [text(events) for events in await asyncio.gather(*calls)] == [large, *map(str, range(20))]
        await running.call("far__grow", b'{"name":"fresh"}')
        await running.until(lambda: "far__fresh" in running.names())
        with pytest.raises(DeadlineExceeded):
            await running.call("far__hang", seconds=0.5)
        async with asyncio.timeout(5):
            while text(await running.call("far__times_cancelled")) != "1":
                pass  # the cancellation has to reach the server


async def test_headers_and_tls(gateway, server, authority):
    ca = {"ca": str(authority.folder / "ca.pem")}
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.folder / "server.pem", authority.folder / "server.key")
    async with server.served(ssl=context) as port:
        url = {"url": f"wss://127.0.0.1:{port}/mcp", "headers": {"X-Key": "the key"}}
        async with gateway({"good": {**url, "tls": ca}, "stranger": url}) as running:
            assert running.status("good").state is ServerState.READY
            assert "certificate" in running.status("stranger").reason
            assert server.headers[-1]["X-Key"] == "the key"
            assert server.headers[-1]["Sec-WebSocket-Protocol"] == "mcp"


async def test_frames_that_are_no_messages_are_passed_over(gateway, server):
    server.noise = ["", "{", "[]", '{"jsonrpc":"2.0"}', b"\xff\xfe", '{"jsonrpc":"2.0","id":77,"result":{}}']
    async with server.served() as port, gateway({"far": {"url": f"ws://127.0.0.1:{port}"}}) as running:
        assert text(await running.call("far__echo", b'{"text":"hi"}')) == "hi"


async def test_a_server_that_goes_is_unavailable_and_comes_back_by_itself(gateway, server):
    async with server.served() as port, gateway({"far": {"url": f"ws://127.0.0.1:{port}"}}) as running:
        with pytest.raises(Unavailable, match="far"):
            await running.call("far__die", seconds=10)
        await running.until_ready("far")
        assert text(await running.call("far__echo", b'{"text":"back"}')) == "back"
        hanging = asyncio.create_task(running.call("far__hang"))
        await running.call("far__echo", b'{"text":"it hangs by now"}')
        await server.cut()
        with pytest.raises(Unavailable):
            await hanging
        await running.until_ready("far")


async def test_a_refusal_is_told_without_what_it_says(gateway, server):
    server.refusal = "no: "
    async with server.served() as port:
        far = {"url": f"ws://127.0.0.1:{port}/?key=s3cret-of-url", "headers": {"X-Key": "s3cret-of-header"}}
        async with gateway({"far": far, "nobody": {"url": "ws://127.0.0.1:1"}}) as running:
            reason = running.status("far").reason
            assert "HTTP 403" in reason and "s3cret" not in reason
            assert running.status("nobody").state is ServerState.UNHEALTHY
