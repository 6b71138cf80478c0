"""MCP on standard input and output: a real process, in front of a real server."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import ElicitResult

from tests.unit.bridge.running_bridge import stateless

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


def call(id, name, **arguments):
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


@asynccontextmanager
async def program(tools, *words, stderr=None):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "narthex_bridge.stdio", "--server", tools.address, *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
    try:
        async with asyncio.timeout(20):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def exchange(process, *lines):
    """Sends lines and the end of input; every message that comes, until the process ends by itself."""
    raw = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    out, _ = await process.communicate(b"".join(line + b"\n" for line in raw))
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_official_client_starts_it(tools, mode):
    async def on_elicitation(context, params):
        return ElicitResult(action="accept", content={"said": "Ann"})

    words = ["-m", "narthex_bridge.stdio", "--server", tools.address]
    transport = stdio_client(StdioServerParameters(command=sys.executable, args=words))
    async with asyncio.timeout(20), Client(transport, mode=mode, elicitation_callback=on_elicitation) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        assert [tool.name for tool in (await client.list_tools()).tools] == tools.names
        told = []

        async def on_progress(progress, total, message):
            told.append(message)

        result = await client.call_tool("deltas", {}, progress_callback=on_progress)
        assert (result.content[0].text, told) == ("Hello, world", ["Hello", ", ", "world"])
        for wanting in ("waits", "asks"):
            assert "Ann" in (await client.call_tool(wanting, {})).content[0].text


async def test_what_is_in_work_at_the_end_of_input_is_answered(tools):
    async with program(tools) as process:
        answers = await exchange(process, INITIALIZE, call(1, "echo", text="é"), call(2, "count"))
    by_id = {answer["id"]: answer["result"] for answer in answers if "id" in answer}
    assert by_id[1]["content"][0]["text"] == "é"
    assert by_id[2]["structuredContent"] == {"n": 12345678901234567890123}


async def test_lines_that_are_no_messages_are_refused_and_the_rest_goes_on(tools):
    lines = (b"", b"{", b"\xff\xfe", b"[]", b"[1]", b'{"jsonrpc":"2.0","id":4}', b"x" * 3000, INITIALIZE)
    async with program(tools, "--max-body-bytes", "2000") as process:
        answers = await exchange(process, *lines)
    assert [answer["error"]["code"] for answer in answers if "error" in answer] == [
        *(-32700, -32700, -32600, -32600, -32600, -32600)
    ]
    assert "2000" in next(a["error"]["message"] for a in answers if "at most" in a.get("error", {}).get("message", ""))
    assert answers[-1]["result"]["serverInfo"]["name"] == "narthex"


async def test_calls_of_either_era_can_be_cancelled(tools):
    async with program(tools) as process:
        for id, request in (("a", call("a", "hang")), ("b", stateless("tools/call", {"name": "hang"}, "b"))):
            tools.hanging.clear()
            tools.cancelled.clear()
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await tools.hanging.wait()
            process.stdin.write(json.dumps(note).encode() + b"\n")
            await tools.cancelled.wait()


async def test_listening_and_sessions_hear_of_changes(tools):
    async with program(tools) as process:
        listen = stateless("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, "l")
        for message in (INITIALIZE, listen):
            process.stdin.write(json.dumps(message).encode() + b"\n")
        await tools.watching.wait()
        heard = set()
        while len(heard) < 3:
            message = json.loads(await process.stdout.readline())
            if message.get("method") == "notifications/subscriptions/acknowledged":
                await tools.change("echo")
                heard.add("acknowledged")
            elif message.get("method") == "notifications/tools/list_changed":
                heard.add("listening" if "params" in message else "session")


async def test_a_client_that_does_not_read_ends_the_program(tools):
    async with program(tools) as process:
        process.stdout._transport.close()
        for _ in range(3):
            process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        await process.wait()


async def test_a_server_that_is_not_there_is_told(tools):
    async with program(tools, "--server", "127.0.0.1:1") as process:
        answers = await exchange(process, INITIALIZE, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert answers[-1]["error"]["code"] == 503
    assert "narthex serve" in answers[-1]["error"]["message"]


async def test_a_server_that_is_not_there_yet_is_missed_at_once(tools):
    async with program(tools, "--server", "127.0.0.1:1", stderr=asyncio.subprocess.PIPE) as process:
        told = (await process.stderr.readline()).decode()
    assert "no narthex server answers at 127.0.0.1:1" in told and "narthex serve" in told


async def test_lists_that_have_not_changed_are_not_said_to_have(tools):
    """Some clients take each line for the answer to what they have asked last."""
    requests = [{"jsonrpc": "2.0", "id": number, "method": "tools/list"} for number in range(1, 50)]
    async with program(tools) as process:
        answers = await exchange(process, INITIALIZE, *requests)
    assert all("id" in answer for answer in answers)
