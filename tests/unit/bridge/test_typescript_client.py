"""The official TypeScript client, over both transports."""

import asyncio
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "e2e" / "typescript" / "client.mjs"
DEADLINE_S = 30


@pytest.mark.polyglot
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_client_lists_and_calls_tools(bridge, tools, transport):
    process = await asyncio.create_subprocess_exec(
        "node", SCRIPT, transport, bridge.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0, errors.decode()
    found, told = json.loads(output), ["Hello", ", ", "world"]
    if transport == "sse":  # this client drops a notification that comes in the same read as its request's response
        told = told[: len(found["told"])]
    assert found == {
        "tools": tools.names,
        "told": told,
        "text": "Hello, world",
        "echoed": "héllo",
        "failure": -32602,
    }
