"""What an MCP client hears of upstreams that are others every 100 ms."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ToolListChangedNotification

from tests.e2e.processes import READY_S, started

SHAKY = str(Path(__file__).parent / "upstreams" / "servers" / "shaky.py")
FLIPPING = ("flip", "flop", "flap")


@pytest.fixture
async def url(tmp_path):
    servers = {name: {"command": sys.executable, "args": [SHAKY, "flipping"]} for name in FLIPPING}
    servers["calm"] = {"command": sys.executable, "args": [SHAKY]}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    address = "127.0.0.1:0"
    config = ("--mcp-config", tmp_path / "mcp.json", "--cache-dir", tmp_path / "cache")
    async with (
        started("narthex_server.main", "--grpc", address, "--metrics", address, *config) as server,
        started("narthex_bridge.main", "--http", address, "--server", server["grpc"]) as bridge,
    ):
        yield f"http://{bridge['http']}"


async def test_it_is_told_of_all_together_now_and_then_and_its_calls_go_on(url):
    for transport in (streamable_http_client(f"{url}/mcp"), sse_client(f"{url}/sse")):
        moments, others = [], []

        async def on_message(message, moments=moments, others=others):
            heard = moments if isinstance(message, ToolListChangedNotification) else others
            heard.append(asyncio.get_running_loop().time())

        async with asyncio.timeout(READY_S), Client(transport, mode="legacy", message_handler=on_message) as client:
            while len(moments) < 6:
                names = [tool.name for tool in (await client.list_tools()).tools]
                assert {f"{name}__echo" for name in (*FLIPPING, "calm")} <= set(names)
                said = await client.call_tool("calm__echo", {"text": "beside them"})
                assert said.content[0].text == "beside them"
        assert moments[-1] - moments[1] > 0.4 * len(moments[2:]) and not others, "three times ten changes a second"
