"""Forwarding to the reference servers of the npm registry, which speak the protocol with a handshake."""

import asyncio
import json
import shlex

import pytest
from narthex_server.errors import NotFound
from narthex_server.principal import LOCAL
from narthex_server.tools.completion import PromptReference, Typed
from narthex_server.tools.offers.watches import ResourceUpdated
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, Progress

from tests.e2e.installed import listening, npm

pytestmark = pytest.mark.system


def text(events) -> str:
    return json.loads(events[-1].content)[0]["text"]


async def test_filesystem(gateway, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    async with gateway({"fs": npm("@modelcontextprotocol/server-filesystem", str(tmp_path))}) as running:
        assert running.status("fs").state is ServerState.READY
        assert {"fs__read_text_file", "fs__write_file", "fs__list_directory"} <= set(running.names())
        path = json.dumps({"path": str(tmp_path / "a.txt")}).encode()
        assert text(await running.call("fs__read_text_file", path)) == "one"
        new = {"path": str(tmp_path / "b.txt"), "content": "ü" * 100_000}
        await running.call("fs__write_file", json.dumps(new).encode())
        assert (tmp_path / "b.txt").read_text() == new["content"]
        outside = await running.call("fs__read_text_file", b'{"path":"/etc/hostname"}')
        assert outside[-1].is_error


async def test_everything_over_stdio(gateway):
    async with gateway({"all": npm("@modelcontextprotocol/server-everything", "stdio")}) as running:
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
async def test_everything_behind_a_url(gateway, free_port, mode, kind, path):
    everything = {"all": {"url": f"http://127.0.0.1:{free_port}/{path}", "type": kind}}
    program = npm("@modelcontextprotocol/server-everything", mode, PORT=str(free_port))
    async with listening(program), gateway(everything) as running:
        await running.until_ready("all")
        assert text(await running.call("all__echo", b'{"message":"hi"}')) == "Echo: hi"
        long = await running.call("all__trigger-long-running-operation", b'{"duration":0.5,"steps":3}')
        assert [event.progress for event in long if isinstance(event, Progress)] == [1, 2, 3]


async def graph(running, server: str = "memory"):
    return json.loads((await running.call(f"{server}__read_graph"))[-1].structured_content)


KETTLE = {"name": "kettle", "entityType": "thing", "observations": ["whistles"]}
STOVE = {"name": "stove", "entityType": "place", "observations": []}
ON_THE_STOVE = {"from": "kettle", "to": "stove", "relationType": "stands on"}


async def test_memory_is_kept_over_restarts(gateway, tmp_path):
    memory = {"memory": npm("@modelcontextprotocol/server-memory", MEMORY_FILE_PATH=str(tmp_path / "memory.jsonl"))}
    async with gateway(memory) as running:
        assert running.status("memory").state is ServerState.READY
        assert await graph(running) == {"entities": [], "relations": []}
        await running.call("memory__create_entities", json.dumps({"entities": [KETTLE, STOVE]}).encode())
        await running.call("memory__create_relations", json.dumps({"relations": [ON_THE_STOVE]}).encode())
        assert (await running.catalog.reconnect("memory")).state is ServerState.READY
        assert await graph(running) == {"entities": [KETTLE, STOVE], "relations": [ON_THE_STOVE]}
    async with gateway(memory) as running:
        found = await running.call("memory__search_nodes", b'{"query":"whistles"}')
        assert json.loads(found[-1].structured_content)["entities"] == [KETTLE]


async def test_memory_behind_a_websocket(gateway, free_port, tmp_path):
    """The WebSocket is supergateway's, which speaks to the other over its standard input and output."""
    memory = npm("@modelcontextprotocol/server-memory")
    behind = npm(
        "supergateway", "--stdio", shlex.join([memory["command"], *memory["args"]]),
        "--outputTransport", "ws", "--port", str(free_port), MEMORY_FILE_PATH=str(tmp_path / "memory.jsonl"),
    )  # fmt: skip
    async with listening(behind), gateway({"far": {"url": f"ws://127.0.0.1:{free_port}/message"}}) as running:
        status = running.status("far")
        assert (status.state, status.transport) == (ServerState.READY, "websocket"), status
        await running.call("far__create_entities", json.dumps({"entities": [KETTLE]}).encode())
        graphs = await asyncio.gather(*(graph(running, "far") for _ in range(20)))
        assert graphs == [{"entities": [KETTLE], "relations": []}] * 20


async def test_everythings_resources_and_prompts_are_forwarded(gateway):
    context = CallContext(LOCAL, "test")
    async with gateway({"every": npm("@modelcontextprotocol/server-everything", "stdio")}) as running:
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
