"""The whole path: an MCP client, the bridge, the server, its model and a real upstream."""

import asyncio
import json
import sys
from pathlib import Path

import httpx
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from tests.e2e.processes import READY_S, started

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "demo" / "tiny-tool-demo-q8_0.gguf"
ASK = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16, "temperature": 0}


async def listed(url, name):
    """Waits until a tool is there: upstreams start after the server."""
    changed = asyncio.Event()

    async def on_message(_):
        changed.set()

    async with Client(sse_client(f"{url}/sse"), message_handler=on_message) as client:
        while name not in [tool.name for tool in (await client.list_tools()).tools]:
            await changed.wait()
            changed.clear()


@pytest.fixture
async def url(tmp_path):
    servers = {"mcpServers": {"time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]}}}
    (tmp_path / "mcp.json").write_text(json.dumps(servers))
    address = "127.0.0.1:0"
    async with (
        started(
            "narthex_server.main", "--grpc", address, "--metrics", address, "--model", f"demo={MODEL}",
            "--mcp-config", tmp_path / "mcp.json", "--threads", 1, "--cache-dir", tmp_path / "cache",
        ) as server,
        started("narthex_bridge.main", "--http", address, "--server", server["grpc"]) as bridge,
    ):  # fmt: skip
        url = f"http://{bridge['http']}"
        await asyncio.wait_for(listed(url, "time__get_current_time"), READY_S)
        yield url


async def test_clients_use_native_and_forwarded_tools(url):
    for transport in (streamable_http_client(f"{url}/mcp"), sse_client(f"{url}/sse")):
        told = []

        async def on_progress(progress, total, message, told=told):
            told.append(message)

        async with Client(transport) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"chat", "generate", "count_tokens", "list_models", "time__get_current_time"} <= names
            now = await client.call_tool("time__get_current_time", {"timezone": "UTC"})
            assert not now.is_error and "UTC" in now.content[0].text
            misfit = await client.call_tool("time__get_current_time", {"timezone": 7})
            assert misfit.is_error and "timezone" in misfit.content[0].text
            said = await client.call_tool("chat", ASK, progress_callback=on_progress)
            assert not said.is_error
            assert len(told) > 1
            assert "".join(told) in said.content[0].text or said.content[0].text in "".join(told)


async def test_a_script_streams_text_without_a_session(url):
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "chat", "arguments": ASK}}
    async with httpx.AsyncClient(base_url=url, timeout=READY_S) as http:
        assert (await http.get("/readyz")).status_code == 200
        listed = (await http.get("/mcp/list")).json()["tools"]
        assert "time__get_current_time" in [tool["name"] for tool in listed]
        text = (await http.post("/mcp/stream", json=message)).text
        names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
        assert names.count("message") > 0 and names[-1] == "done"
        message["params"] = {"name": "chat", "arguments": ASK | {"model": "nobody"}}
        text = (await http.post("/mcp/stream", json=message)).text
        assert "nobody" in text and "demo" in text
