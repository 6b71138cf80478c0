"""Forwarding to the reference servers of the npm registry, which speak the protocol with a handshake."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from narthex_server.errors import NotFound
from narthex_server.principal import LOCAL
from narthex_server.tools.completion import PromptReference, Typed
from narthex_server.tools.offers.watches import ResourceUpdated
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, Progress

pytestmark = pytest.mark.system


def text(events) -> str:
    return json.loads(events[-1].content)[0]["text"]


@pytest.fixture
def entry():
    """The `mcpServers` entry of an installed package; the test fails where it is not installed."""
    modules = Path(os.environ.get("NARTHEX_NODE_MODULES") or "node_modules").resolve()

    def find(package: str, *args: str):
        program = modules / "@modelcontextprotocol" / package / "dist" / "index.js"
        assert program.is_file(), f"{program} is missing: npm install @modelcontextprotocol/{package}"
        return {"command": "node", "args": [str(program), *args]}

    return find


async def test_filesystem(gateway, entry, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    async with gateway({"fs": entry("server-filesystem", str(tmp_path))}) as running:
        assert running.status("fs").state is ServerState.READY
        assert {"fs__read_text_file", "fs__write_file", "fs__list_directory"} <= set(running.names())
        path = json.dumps({"path": str(tmp_path / "a.txt")}).encode()
        assert text(await running.call("fs__read_text_file", path)) == "one"
        new = {"path": str(tmp_path / "b.txt"), "content": "ü" * 100_000}
        await running.call("fs__write_file", json.dumps(new).encode())
        assert (tmp_path / "b.txt").read_text() == new["content"]
        outside = await running.call("fs__read_text_file", b'{"path":"/etc/hostname"}')
        assert outside[-1].is_error


async def test_everything_over_stdio(gateway, entry):
    async with gateway({"all": entry("server-everything", "stdio")}) as running:
        assert running.status("all").protocol_version == "2025-11-25"
        assert text(await running.call("all__echo", b'{"message":"hi"}')) == "Echo: hi"
        assert "5" in text(await running.call("all__get-sum", b'{"a":2,"b":3}'))
        weather = await running.call("all__get-structured-content", b'{"location":"New York"}')
        assert "temperature" in json.loads(weather[-1].structured_content)
        image = await running.call("all__get-tiny-image")
        assert "image" in [block["type"] for block in json.loads(image[-1].content)]
        long = await running.call("all__trigger-long-running-operation", b'{"duration":0.5,"steps":3}')
        assert [event.progress for event in long if isinstance(event, Progress)] == [1, 2, 3]


@pytest.mark.parametrize(("mode", "kind", "path"), [("streamableHttp", "http", "mcp"), ("sse", "sse", "sse")])
async def test_everything_behind_a_url(gateway, entry, free_port, mode, kind, path):
    program = entry("server-everything", mode)
    process = await asyncio.create_subprocess_exec(
        program["command"],
        *program["args"],
        env={**os.environ, "PORT": str(free_port)},
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with gateway({"all": {"url": f"http://127.0.0.1:{free_port}/{path}", "type": kind}}) as running:
            await running.until_ready("all")
            assert text(await running.call("all__echo", b'{"message":"hi"}')) == "Echo: hi"
            long = await running.call("all__trigger-long-running-operation", b'{"duration":0.5,"steps":3}')
            assert [event.progress for event in long if isinstance(event, Progress)] == [1, 2, 3]
    finally:
        process.kill()
        await process.wait()


async def test_everythings_resources_and_prompts_are_forwarded(gateway, entry):
    context = CallContext(LOCAL, "test")
    async with gateway({"every": entry("server-everything", "stdio")}) as running:
        catalog = running.catalog
        uri = "demo://resource/static/document/features.md"
        assert uri in [resource.uri for resource in catalog.view(LOCAL).resources.listed]
        found = await catalog.view(LOCAL).resources.read("every+demo://resource/dynamic/text/7", "", context)
        assert found.parts[0].uri == "every+demo://resource/dynamic/text/7" and "Resource 7" in found.parts[0].content
        with pytest.raises(NotFound):
            await catalog.view(LOCAL).resources.read("demo://resource/static/nothing", "", context)
        filled = await catalog.view(LOCAL).prompts.fill("every__args-prompt", {"city": "Ghent"}, context)
        assert b"Ghent" in filled.messages[0].content
        typed = Typed("department", "E", {})
        assert (await catalog.complete(PromptReference("every__completable-prompt"), typed, context)).values
        with catalog.watches.open([uri], context) as watch:
            await catalog.watches.ready(watch)
            await running.call("every__toggle-subscriber-updates")
            async with asyncio.timeout(20):
                assert await anext(watch.changes()) == ResourceUpdated(uri)
