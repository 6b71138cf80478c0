"""Real servers of every kind behind one server and one bridge, used by the official client."""

import asyncio
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp_types as types
import narthex
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.sse import sse_client
from narthex.v1 import upstream_pb2

from tests.e2e.installed import fetch, free_port, listening, npm, python
from tests.e2e.processes import started
from tests.e2e.site import site

pytestmark = pytest.mark.system

FREE = ("--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
READY_S = 60
OURS = ["tools__search", "tools__call"]
FLAT = ("files", "workspace")
"""Two servers of files whose tools have no prefix, and some of whose names are the same."""


@dataclass
class Stack:
    """What runs, what each upstream's own list of tools is, and one call of each with something of its answer."""

    grpc: str
    metrics: str
    http: str
    root: Path
    offered: dict[str, list[str]]
    calls: dict[str, tuple[str, dict[str, Any], str]] = field(default_factory=dict)

    async def upstreams(self) -> dict[str, upstream_pb2.Upstream]:
        async with narthex.Client(self.grpc) as client:
            return {upstream.name: upstream for upstream in await client.list_upstreams()}

    async def reconnects(self) -> dict[str, int]:
        page = await asyncio.to_thread(urllib.request.urlopen, f"http://{self.metrics}/metrics", timeout=READY_S)
        samples = re.findall(
            r'^narthex_upstream_reconnects_total{server="(.+)"} (.+)$', page.read().decode(), re.MULTILINE
        )
        return {name: int(float(times)) for name, times in samples}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with Client(f"http://{self.http}/mcp", read_timeout_seconds=READY_S) as client:
            yield client


def everything(*arguments: str, **env: str) -> dict[str, Any]:
    return npm("@modelcontextprotocol/server-everything", *arguments, **env)


async def tools(server: Any) -> list[str]:
    """The names of all tools of a server, asked without us."""

    async def refuse(*_: object) -> types.ErrorData:
        return types.ErrorData(code=types.INVALID_REQUEST, message="nobody is here")

    names, cursor = [], None
    async with Client(
        server, sampling_callback=refuse, elicitation_callback=refuse, list_roots_callback=refuse
    ) as client:
        while not names or cursor:
            page = await client.list_tools(cursor=cursor)
            names += [tool.name for tool in page.tools]
            cursor = page.next_cursor
    return names


async def asked(entry: dict[str, Any]) -> list[str]:
    if "command" in entry:
        return await tools(StdioServerParameters(**{**entry, "env": os.environ | entry["env"]}))
    return await tools(sse_client(entry["url"]) if entry["type"] == "sse" else entry["url"])


def material(root: Path) -> None:
    for folder in ("files", "workspace", "manual", "repository"):
        (root / folder).mkdir()
    (root / "files" / "tea.txt").write_text("oolong")
    (root / "workspace" / "cups.txt").write_text("two cups")
    (root / "manual" / "kettle.md").write_text("# Kettles\n\nDescale the kettle every spring.\n")
    (root / "repository" / "saucers.txt").write_text("three")
    subprocess.run(["git", "init", "--quiet", root / "repository"], check=True)
    with sqlite3.connect(root / "shop.db") as shop:
        shop.executescript("CREATE TABLE tea (name TEXT); INSERT INTO tea VALUES ('sencha')")
    shop.close()


@pytest.fixture
async def stack(tmp_path) -> AsyncIterator[Stack]:
    material(tmp_path)
    memory = npm("@modelcontextprotocol/server-memory", MEMORY_FILE_PATH=str(tmp_path / "memory.jsonl"))
    streamed, events, socket = free_port(), free_port(), free_port()
    gateway = [
        "--stdio", shlex.join([memory["command"], *memory["args"]]), "--outputTransport", "ws", "--port", str(socket),
    ]  # fmt: skip
    far = {"clock": python("mcp_server_time"), "manual": python("narthex_mcp.search", str(tmp_path / "manual"))}
    (tmp_path / "far.json").write_text(json.dumps({"mcpServers": far}))
    async with AsyncExitStack() as running:
        url = running.enter_context(site())
        *_, inner = [
            await running.enter_async_context(one)
            for one in (
                listening(everything("streamableHttp", PORT=str(streamed))),
                listening(everything("sse", PORT=str(events))),
                listening(npm("supergateway", *gateway, MEMORY_FILE_PATH=str(tmp_path / "notes.jsonl"))),
                started("narthex_server.main", *FREE, "--mcp-config", tmp_path / "far.json"),
            )
        ]
        servers = {
            "files": npm("@modelcontextprotocol/server-filesystem", str(tmp_path / "files")),
            "every": everything("stdio", str(tmp_path)),
            "streamed": {"url": f"http://127.0.0.1:{streamed}/mcp", "type": "http"},
            "events": {"url": f"http://127.0.0.1:{events}/sse", "type": "sse"},
            "memory": memory,
            "notes": {"url": f"ws://127.0.0.1:{socket}/message"},
            "git": python("mcp_server_git"),
            "time": python("mcp_server_time"),
            "web": fetch(),
            "far": {"url": f"grpc://{inner['grpc']}"},
            "workspace": python("narthex_mcp.workspace", str(tmp_path / "workspace")),
            "shop": python("narthex_mcp.sqlite", str(tmp_path / "shop.db")),
            "manual": python("narthex_mcp.search", str(tmp_path / "manual")),
            "tides": {"type": "openapi", "document": f"{url}/openapi.json"},
        }
        alone = [name for name, entry in servers.items() if "command" in entry or entry.get("type") in ("http", "sse")]
        listed = await asyncio.gather(*(asked(servers[name]) for name in alone), asked(far["clock"]))
        offered = dict(zip(alone, listed[:-1], strict=True))
        offered["notes"] = offered["memory"]
        offered["far"] = [f"clock__{name}" for name in listed[-1]] + [f"manual__{name}" for name in offered["manual"]]
        offered["tides"] = ["getTide"]
        served = {name: {**entry, "namespace": "flat"} if name in FLAT else entry for name, entry in servers.items()}
        (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": served}))
        server = await running.enter_async_context(
            started("narthex_server.main", *FREE, "--mcp-config", tmp_path / "mcp.json", log=tmp_path / "server.log")
        )
        bridge = await running.enter_async_context(
            started("narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server["grpc"])
        )
        made = Stack(
            server["grpc"], server["metrics"], bridge["http"], tmp_path, {name: offered[name] for name in servers}
        )
        async with asyncio.timeout(READY_S):
            while any(one.state != upstream_pb2.UPSTREAM_STATE_READY for one in (await made.upstreams()).values()):
                pass
        made.calls = {
            "files": ("read_text_file", {"path": str(tmp_path / "files" / "tea.txt")}, "oolong"),
            "every": ("every__echo", {"message": "one"}, "Echo: one"),
            "streamed": ("streamed__echo", {"message": "two"}, "Echo: two"),
            "events": ("events__echo", {"message": "three"}, "Echo: three"),
            "memory": ("memory__read_graph", {}, "entities"),
            "notes": ("notes__read_graph", {}, "entities"),
            "git": ("git__git_status", {"repo_path": str(tmp_path / "repository")}, "saucers.txt"),
            "time": ("time__get_current_time", {"timezone": "Asia/Tokyo"}, "+09:00"),
            "web": ("web__fetch", {"url": f"{url}/tides.html"}, "# Tides"),
            "far": ("far__clock__get_current_time", {"timezone": "Asia/Kolkata"}, "+05:30"),
            "workspace": ("read_lines", {"path": "cups.txt"}, "two cups"),
            "shop": ("shop__query", {"sql": "SELECT name FROM tea"}, "sencha"),
            "manual": ("manual__search", {"query": "kettle"}, "Descale"),
            "tides": ("tides__getTide", {"port": "ostend"}, "04:12"),
        }
        yield made


async def test_every_tool_of_all_servers_is_listed_once_and_collisions_are_told(stack):
    upstreams = await stack.upstreams()
    assert list(upstreams) == list(stack.offered)
    renamed = {(name, one.own_name): one for name, upstream in upstreams.items() for one in upstream.renamed_tools}
    expected = list(OURS)
    for name, own_names in stack.offered.items():
        for own in own_names:
            plain = own if name in FLAT else f"{name}__{own}"
            expected.append(renamed[name, own].exposed_name if (name, own) in renamed else plain)
    listed = await tools(f"http://{stack.http}/mcp")
    assert Counter(listed) == Counter(expected) and max(Counter(listed).values()) == 1

    same = set(stack.offered["files"]) & set(stack.offered["workspace"])
    assert {"write_file", "list_directory"} - same == {"write_file"}, "the workspace does not write here"
    assert {own for _, own in renamed} == same, renamed
    for (name, own), one in renamed.items():
        assert (name, one.reason, one.other_name) == ("workspace", upstream_pb2.RENAME_REASON_TAKEN, own)


async def test_all_answer_side_by_side_while_one_is_killed_and_it_comes_back(stack):
    async with stack.client() as client, asyncio.timeout(READY_S):

        async def answered(name: str) -> None:
            tool, arguments, words = stack.calls[name]
            result = await client.call_tool(tool, arguments)
            said = "\n".join(getattr(block, "text", "") for block in result.content)
            assert not result.is_error and words in said, (name, result)

        assert stack.calls.keys() == stack.offered.keys()
        await asyncio.gather(*map(answered, stack.calls))

        works = asyncio.Event()

        async def working(*_: object) -> None:
            works.set()

        long = {"duration": 60, "steps": 600}
        endless = asyncio.create_task(
            client.call_tool("every__trigger-long-running-operation", long, progress_callback=working)
        )
        await works.wait()
        others = [asyncio.create_task(answered(name)) for name in stack.calls if name != "every" for _ in range(3)]
        await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        os.kill(process_of("stdio", str(stack.root)), signal.SIGKILL)
        with pytest.raises(MCPError) as told:
            await endless
        assert "SIGKILL" in str(told.value)
        await asyncio.gather(*others)

        while (await stack.upstreams())["every"].state != upstream_pb2.UPSTREAM_STATE_READY:
            pass
        await asyncio.gather(*map(answered, stack.calls))
    assert {name: times for name, times in (await stack.reconnects()).items() if times} == {"every": 1}


def process_of(*last: str) -> int:
    """The process of Node whose command ends so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")[:-1]
        except OSError:
            continue  # it has ended meanwhile
        if command[:1] == ["node"] and tuple(command[-len(last) :]) == last:
            found.append(int(process.name))
    (pid,) = found
    return pid
