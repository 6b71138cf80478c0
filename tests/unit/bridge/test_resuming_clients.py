"""Official clients on a connection that is cut in the middle of a stream."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

SCRIPT = Path(__file__).parents[2] / "e2e" / "typescript" / "resume.mjs"
DEADLINE_S = 30.0


@dataclass
class Cutter:
    """A proxy that cuts a connection where one of the marks begins, in the middle of an event; at each mark once."""

    target: tuple[str, int]
    marks: list[bytes]
    url: str = ""
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bridge_reader, bridge_writer = await asyncio.open_connection(*self.target)
        done = {
            asyncio.create_task(self._pass(reader, bridge_writer, ())),
            asyncio.create_task(self._pass(bridge_reader, writer, self.marks)),
        }
        await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.cancel()
        for side in (writer, bridge_writer):
            side.close()
            with contextlib.suppress(OSError):
                await side.wait_closed()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, marks: list[bytes] | tuple
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                for mark in list(marks):
                    if mark in piece:
                        marks.remove(mark)
                        writer.write(piece.partition(mark)[0])
                        await writer.drain()
                        self.cut.set()
                        return
                writer.write(piece)
                await writer.drain()


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


@asynccontextmanager
async def cutting(url: str, *marks: bytes) -> AsyncIterator[Cutter]:
    cutter = Cutter(address(url), list(marks))
    server = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
    cutter.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield cutter


def feed(tools, *texts):
    for text in texts:
        tools.feed.put_nowait(text)


async def test_the_python_client_misses_nothing(start_bridge, tools):
    told = []

    async def on_progress(progress, total, message):
        told.append(message)

    async with start_bridge(retry_s=0.01) as bridge, cutting(bridge.url, b'"two"') as proxy:
        # Cut again while it reads on, this client would ask from where it began to read on, and see events twice.
        async with Client(streamable_http_client(f"{proxy.url}/mcp"), mode="legacy") as client:
            feed(tools, "one")
            call = asyncio.create_task(client.call_tool("feed", {}, progress_callback=on_progress))
            feed(tools, "two", "three", "four", None)
            result = await asyncio.wait_for(call, DEADLINE_S)
        assert proxy.marks == []
    assert told == ["one", "two", "three", "four"]
    assert result.content[0].text == "full"


async def test_the_python_client_polls_streams_that_are_closed_on_purpose(start_bridge, tools):
    told = []

    async def on_progress(progress, total, message):
        if message not in told:  # closed on again while it reads on, this client asks from where it began to
            told.append(message)
            feed(tools, str(len(told)) if len(told) < 20 else None)

    async with (
        start_bridge(stream_lifetime_s=0.01, retry_s=0.01) as bridge,
        Client(streamable_http_client(f"{bridge.url}/mcp"), mode="legacy") as client,
    ):
        feed(tools, "0")
        result = await asyncio.wait_for(client.call_tool("feed", {}, progress_callback=on_progress), DEADLINE_S)
        assert await bridge.metric("resumed_streams_total") > 0
    assert told == [str(n) for n in range(20)]
    assert result.content[0].text == "full"


async def test_the_python_client_learns_that_its_call_died_with_the_bridge(bridge_process, tools, tmp_path):
    durable = ("--events-store", "sqlite", "--events-path", str(tmp_path / "e.db"), "--retry-s", "3")
    started = asyncio.Event()

    async def on_progress(progress, total, message):
        started.set()

    async with (
        bridge_process(*durable) as first,
        cutting(first.url) as proxy,
        Client(streamable_http_client(f"{proxy.url}/mcp"), mode="legacy") as client,
    ):
        feed(tools, "one")
        call = asyncio.create_task(client.call_tool("feed", {}, progress_callback=on_progress))
        await asyncio.wait_for(started.wait(), DEADLINE_S)
        await first.stop()
        async with bridge_process(*durable) as second:
            proxy.target = address(second.url)
            with pytest.raises(MCPError, match="has ended"):
                await asyncio.wait_for(call, DEADLINE_S)


@pytest.mark.polyglot
async def test_the_typescript_client_misses_nothing(start_bridge, tools):
    async with start_bridge(retry_s=0.01) as bridge, cutting(bridge.url, b'"two"', b'"three"') as proxy:
        feed(tools, "one", "two", "three", "four")
        process = await asyncio.create_subprocess_exec(
            "node", SCRIPT, proxy.url, "feed", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        await asyncio.wait_for(proxy.cut.wait(), DEADLINE_S)
        feed(tools, None)
        output, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == 0, errors.decode()
        assert proxy.marks == []
    assert json.loads(output) == {"told": ["one", "two", "three", "four"], "text": "full"}
