"""The official MCP client, over both transports."""

import asyncio
import contextlib

import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult


@pytest.fixture(params=["streamable", "session", "sse"])
def connect(request, bridge):
    """A client of 2026-07-28, one that begins with a handshake, and one of the oldest transport."""
    mode = "auto" if request.param == "streamable" else "legacy"

    def connected(**options):
        sse = request.param == "sse"
        transport = sse_client(f"{bridge.url}/sse") if sse else streamable_http_client(f"{bridge.url}/mcp")
        return Client(transport, mode=mode, **options)

    return connected


async def test_client_lists_and_calls_tools(connect, tools):
    async with connect() as client:
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == tools.names
        result = await client.call_tool("echo", {"text": "héllo"})
        assert result.content[0].text == "héllo"


async def test_client_reads_resources_and_prompts(connect):
    async with connect() as client:
        assert [str(each.uri) for each in (await client.list_resources()).resources] == ["test://a"]
        text, blob = (await client.read_resource("test://a")).contents
        assert (text.text, blob.blob) == ("hello", "AAE=")
        assert (await client.list_prompts()).prompts[0].arguments[0].required
        prompt = await client.get_prompt("greet", {"who": "you"})
        assert prompt.messages[0].content.text == "Hello you"


async def test_client_answers_what_a_tool_wants(connect):
    async def on_elicitation(context, params):
        return ElicitResult(action="accept", content={"said": params.message})

    async with connect(elicitation_callback=on_elicitation) as client:
        for tool in ("waits", "asks"):
            result = await client.call_tool(tool, {})
            assert '"said"' in result.content[0].text and "name?" in result.content[0].text


async def test_client_sees_text_as_progress(connect):
    told = []

    async def on_progress(progress, total, message):
        told.append((progress, message))

    async with connect() as client:
        result = await client.call_tool("deltas", {}, progress_callback=on_progress)
    assert told == [(1, "Hello"), (2, ", "), (3, "world")]
    assert result.content[0].text == "Hello, world"


async def test_client_is_told_when_the_tools_change(connect, tools):
    told = asyncio.Event()

    async def on_message(message):
        if "tools/list_changed" in str(message):
            told.set()

    async with connect(message_handler=on_message) as client, contextlib.AsyncExitStack() as stack:
        await client.list_tools()
        await asyncio.wait_for(tools.watching.wait(), 5)
        if client.protocol_version == "2026-07-28":
            events = await stack.enter_async_context(client.listen(tools_list_changed=True))
            await tools.change("echo")
            async with asyncio.timeout(5):
                await anext(aiter(events))
        else:
            await tools.change("echo")
        while [tool.name for tool in (await client.list_tools()).tools] != ["echo"]:
            await asyncio.wait_for(told.wait(), 5)
            told.clear()
