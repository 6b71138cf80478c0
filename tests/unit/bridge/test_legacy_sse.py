"""GET /sse and POST /messages on the wire."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

DEADLINE_S = 5


class Stream:
    def __init__(self, response):
        self.lines = response.aiter_lines()

    async def event(self):
        while not (name := await asyncio.wait_for(anext(self.lines), DEADLINE_S)).startswith("event: "):
            pass
        return name.removeprefix("event: "), (await anext(self.lines)).removeprefix("data: ")

    async def message(self):
        name, data = await self.event()
        assert name == "message"
        message = json.loads(data)
        return await self.message() if message.get("method") == "notifications/tools/list_changed" else message


@pytest.fixture
def opened(bridge):
    @asynccontextmanager
    async def opened():
        async with bridge.http.stream("GET", "/sse") as response:
            stream = Stream(response)
            name, path = await stream.event()
            assert name == "endpoint" and path.startswith("/messages?session_id=")

            async def send(method, params=None, **id):
                message = {"jsonrpc": "2.0", "method": method, "params": params or {}, **id}
                answer = await bridge.http.post(path, json=message)
                assert answer.status_code == 202

            stream.path = path
            yield stream, send

    return opened


async def test_answers_come_on_the_stream(opened):
    async with opened() as (stream, send):
        await send("initialize", {"protocolVersion": "2024-11-05"}, id=0)
        assert (await stream.message())["result"]["protocolVersion"] == "2024-11-05"
        await send("notifications/initialized")
        await send("tools/call", {"name": "deltas", "_meta": {"progressToken": "p"}}, id=1)
        told = [await stream.message() for _ in range(4)]
        assert "".join(message["params"]["message"] for message in told[:3]) == "Hello, world"
        assert told[3]["id"] == 1


async def test_cancelled_notification_ends_the_call(opened, tools):
    async with opened() as (stream, send):
        await send("tools/call", {"name": "hang"}, id=1)
        await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
        await send("notifications/cancelled", {"requestId": 1})
        await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
        assert (await stream.message())["error"]["code"] == -32800


async def test_closing_the_stream_ends_the_session_and_its_calls(opened, bridge, tools):
    async with opened() as (stream, send):
        await send("tools/call", {"name": "hang"}, id=1)
        await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
    await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
    assert (await bridge.http.post(stream.path, json={"jsonrpc": "2.0", "id": 2, "method": "ping"})).status_code == 404


async def test_bad_messages_are_refused_at_the_post(opened, bridge):
    async with opened() as (stream, _):
        for body, code in ((b"{", -32700), (b"[]", -32600), (b"[{}]", -32600), (b'{"id":1}', -32600)):
            answer = await bridge.http.post(stream.path, content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert (await bridge.http.post("/messages?session_id=x", json={})).status_code == 404
    assert (await bridge.http.post("/messages", json={})).status_code == 404
