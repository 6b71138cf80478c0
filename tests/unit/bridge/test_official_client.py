"""The official MCP client, over both transports."""

import asyncio

import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client


@pytest.fixture(params=["streamable", "sse"])
def transport(request, bridge):
    if request.param == "sse":
        return sse_client(f"{bridge.url}/sse")
    return streamable_http_client(f"{bridge.url}/mcp")


@pytest.mark.filterwarnings("ignore:ping is removed")  # from a later version than ours
async def test_client_lists_and_calls_tools(transport, tools):
    async with Client(transport) as client:
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == tools.names
        result = await client.call_tool("echo", {"text": "héllo"})
        assert result.content[0].text == "héllo"
        await client.send_ping()


async def test_client_sees_text_as_progress(transport):
    told = []

    async def on_progress(progress, total, message):
        told.append((progress, message))

    async with Client(transport) as client:
        result = await client.call_tool("deltas", {}, progress_callback=on_progress)
    assert told == [(1, "Hello"), (2, ", "), (3, "world")]
    assert result.content[0].text == "Hello, world"


async def test_client_is_told_when_the_tools_change(transport, tools):
    told = asyncio.Event()

    async def on_message(message):
        if "tools/list_changed" in str(message):
            told.set()

    async with Client(transport, message_handler=on_message) as client:
        await client.list_tools()
        await asyncio.wait_for(tools.watching.wait(), 5)
        await tools.change("echo")
        while [tool.name for tool in (await client.list_tools()).tools] != ["echo"]:
            await asyncio.wait_for(told.wait(), 5)
            told.clear()
