"""Results that are kept, and calls made as one, with real upstreams that number their calls."""

import asyncio
import json
import os
import sys
from pathlib import Path

import httpx
import pytest
from narthex import Client
from narthex.keys import new_key
from narthex.v1 import tool_pb2, upstream_pb2
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub

from tests.e2e.processes import started

COUNTING = str(Path(__file__).parents[1] / "upstreams" / "servers" / "counting.py")
KEYS = {name: new_key(name, tenant) for name, tenant in (("ann", "a"), ("amy", "a"), ("bob", "b"))}
SAMPLE = "narthex_tool_cache_total"
DELEGATE = {"NARTHEX_DELEGATE_TOKEN": "what both know"}
ASKS = b'{"elicitation":{"form":{}}}'


def upstream(**more) -> dict:
    return {"command": sys.executable, "args": [COUNTING], **more}


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    (folder / "keys.toml").write_text("".join(key.toml for _, key in KEYS.values()))
    (folder / "policy.toml").write_text(
        '[[rules]]\nname="no secrets for amy"\neffect="deny"\nkeys=["amy"]\nservers=["all"]\n'
        'tools=["named"]\narguments={"/n"={equals=2}}\n'
        '[[rules]]\nname="rest"\neffect="allow"\n'
    )
    servers = {
        "all": upstream(scope="shared", cache={"tools": ["named", "slow"], "ttl_secs": 300}),
        "each": upstream(scope="tenant"),
        "one": upstream(scope="session"),
        "never": upstream(scope="shared", cache=False),
        "brief": upstream(scope="shared", cache={"ttl_secs": 0.001}),
    }
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    files = {"--mcp-config": "mcp.json", "--api-key-file": "keys.toml", "--policy": "policy.toml"}
    options = [text for option, name in files.items() for text in (option, str(folder / name))]
    served = launch(*options, "--cache-read-only", "--cache-ttl", "300", env=os.environ | DELEGATE)
    served.keys = folder / "keys.toml"
    return served


@pytest.fixture
async def callers(server, channel):
    """A stub that is all callers', and what makes one say who calls."""
    stub = ToolServiceStub(channel)
    metadata = {name: [("authorization", f"Bearer {secret}")] for name, (secret, _) in KEYS.items()}
    watching = stub.WatchTools(tool_pb2.WatchToolsRequest(), metadata=metadata["ann"], timeout=60)
    async for _ in watching:
        tools = await stub.ListTools(tool_pb2.ListToolsRequest(), metadata=metadata["ann"])
        if {tool.server for tool in tools.tools} >= {"all", "each", "one", "never", "brief"}:
            break
    watching.cancel()
    return Callers(stub, metadata)


class Callers:
    def __init__(self, stub: ToolServiceStub, metadata: dict) -> None:
        self.stub, self.metadata = stub, metadata

    async def result(self, name: str, who: str = "ann", session: str = "", timeout: float = 60, mcp=None, **arguments):
        metadata = [*self.metadata[who], *([("x-narthex-session", session)] if session else [])]
        request = tool_pb2.CallToolRequest(name=name, arguments=json.dumps(arguments).encode(), mcp=mcp)
        async for event in self.stub.CallTool(request, metadata=metadata, timeout=timeout):
            if event.HasField("input_required"):
                answer = tool_pb2.InputResponse(id=event.input_required.requests[0].id, result=b'{"action":"decline"}')
                await self.stub.Respond(
                    tool_pb2.RespondRequest(call_id=event.input_required.call_id, responses=[answer]),
                    metadata=self.metadata[who],
                )
        return event.result

    async def number(self, *args, **more) -> tuple[int, int]:
        """Which process answered, and the number of the call there."""
        said = json.loads(json.loads((await self.result(*args, **more)).content)[0]["text"])
        return said["pid"], said["call"]


async def test_a_tool_that_says_so_is_called_once(server, callers):
    hits = server.metrics().get((SAMPLE, frozenset({"server": "all", "outcome": "hit"}.items())), 0)
    first = await callers.number("all__look", a=1, b=[2])
    assert await callers.number("all__look", b=[2], a=1) == first
    assert await callers.number("all__look", "amy", a=1, b=[2]) == first, "her tenant is the same"
    assert await callers.number("all__look", a=1.0, b=[2]) != first
    assert server.metric(SAMPLE, server="all", outcome="hit") == hits + 2
    assert server.metrics()["narthex_tool_cache_entries", frozenset()] > 0
    assert server.metrics()["narthex_tool_cache_bytes", frozenset()] > 0


@pytest.mark.parametrize("name", ["all__peek", "all__fail", "all__write", "never__look", "brief__look"])
async def test_others_are_called_each_time(callers, name):
    numbers = [await callers.number(name) for _ in range(2)]
    assert numbers[1][1] > numbers[0][1]


async def test_a_tool_that_is_named_is_called_once_though_it_says_nothing(callers):
    assert await callers.number("all__named", n=1) == await callers.number("all__named", n=1)


async def test_the_policy_is_asked_for_what_is_kept_too(callers):
    await callers.number("all__named", n=2)
    with pytest.raises(Exception, match="PERMISSION_DENIED"):
        await callers.number("all__named", "amy", n=2)


@pytest.mark.parametrize("server_name", ["all", "each", "one"])
async def test_a_tenant_never_has_what_another_was_told(callers, server_name):
    anns = await callers.number(f"{server_name}__look", secret="x")
    bobs = await callers.number(f"{server_name}__look", "bob", secret="x")
    assert anns != bobs
    assert await callers.number(f"{server_name}__look", secret="x") == anns
    assert await callers.number(f"{server_name}__look", "bob", secret="x") == bobs


async def test_a_session_never_has_what_another_was_told(callers):
    said = {
        (who, session): await callers.number("one__look", who, session) for who in ("ann", "amy") for session in "12"
    }
    assert len({pid for pid, _ in said.values()}) == 4
    assert said == {each: await callers.number("one__look", *each) for each in said}
    await callers.stub.EndSession(
        tool_pb2.EndSessionRequest(), metadata=[*callers.metadata["ann"], ("x-narthex-session", "1")]
    )
    assert await callers.number("one__look", "ann", "1") != said["ann", "1"]


async def test_what_may_write_makes_the_server_be_asked_again(callers):
    first = await callers.number("all__look", w=1)
    await callers.number("all__peek")
    assert await callers.number("all__look", w=1) == first
    await callers.number("all__write", "bob")
    assert await callers.number("all__look", w=1) != first


async def test_a_server_that_tells_of_other_tools_is_asked_again(callers):
    first = await callers.number("all__look", r=1)
    await callers.number("all__renew")
    assert await callers.number("all__look", r=1) != first


async def test_a_server_that_came_anew_is_asked_again(server, callers, channel):
    first = await callers.number("each__look", d=1)
    with pytest.raises(Exception, match="UNAVAILABLE"):
        await callers.number("each__die")
    stub = UpstreamServiceStub(channel)
    async with asyncio.timeout(60):
        while True:
            try:
                second = await callers.number("each__look", d=1)
                break
            except Exception:
                await stub.ListUpstreams(upstream_pb2.ListUpstreamsRequest(), metadata=callers.metadata["ann"])
    assert second[0] != first[0]


async def test_what_a_person_was_asked_for_is_not_kept(callers):
    mcp = tool_pb2.McpContext(client_capabilities=ASKS)
    assert await callers.number("each__ask", mcp=mcp) != await callers.number("each__ask", mcp=mcp)


async def test_the_same_calls_at_once_are_one_and_each_may_leave(server, callers):
    def joined() -> float:
        return server.metrics().get((SAMPLE, frozenset({"server": "all", "outcome": "coalesced"}.items())), 0)

    before = joined()
    calls = [asyncio.create_task(callers.number("all__slow", n=7)) for _ in range(10)]
    hasty = asyncio.create_task(callers.number("all__slow", n=7, timeout=0.5))
    with pytest.raises(Exception, match="DEADLINE_EXCEEDED"):
        await hasty
    async with asyncio.timeout(30):
        while await asyncio.to_thread(joined) < before + 10:
            pass
    calls[0].cancel()
    await asyncio.gather(calls[0], return_exceptions=True)
    await callers.number("all__release")
    assert len(set(await asyncio.gather(*calls[1:]))) == 1


async def test_clients_of_the_bridge_have_what_is_kept(server):
    headers = {"authorization": f"Bearer {KEYS['ann'][0]}", "accept": "application/json, text/event-stream"}
    asks = {"elicitation": {}, "roots": {}}
    begin = {"protocolVersion": "2025-11-25", "capabilities": asks, "clientInfo": {"name": "t", "version": "1"}}

    async def session(client: httpx.AsyncClient) -> list[str]:
        """What two calls of a new session are told, which have tokens for progress and traces of their own."""
        opened = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": begin})
        within = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        texts = []
        for id in (1, 2):
            meta = {"progressToken": f"p{id}", "traceparent": f"00-{'ab' * 16}-{'cd' * 7}0{id}-01"}
            params = {"name": "all__look", "arguments": {"bridge": 1}, "_meta": meta}
            call = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
            answer = await client.post("/mcp", json=call, headers=within)
            texts.append(answer.json()["result"]["content"][0]["text"])
        return texts

    keys = ("--api-key-file", server.keys)
    async with (
        started("narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.grpc, *keys, **DELEGATE) as bridge,
        httpx.AsyncClient(base_url=f"http://{bridge['http']}", headers=headers, timeout=60) as client,
    ):
        assert len({*await session(client), *await session(client)}) == 1


async def test_a_batch_uses_what_is_kept_and_fails_in_parts(server):
    async with Client(server.grpc, api_key=KEYS["ann"][0], timeout=60) as client:
        calls = [("all__look", {"batch": index % 4}) for index in range(64)]
        results = await client.call_tools([*calls, ("all__nothing", {}), ("each__look", {"batch": 0})])
    texts = [json.loads(result.content)[0]["text"] for result in results[:64]]
    assert len(set(texts)) == 4 and texts[:4] * 16 == texts
    assert results[64].reason == "TOOL_NOT_FOUND" and not results[65].is_error
