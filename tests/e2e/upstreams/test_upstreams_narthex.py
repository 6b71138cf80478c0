"""A narthex server behind another one, over gRPC: both are real, with real MCP servers behind the inner one."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import grpc
import narthex
import pytest
from narthex.keys import append_key, new_key
from narthex.settings import Address
from narthex.v1 import tool_pb2 as wire
from narthex.v1 import upstream_pb2
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub
from narthex_server.app import serving
from narthex_server.config.catalog import CatalogSettings
from narthex_server.config.server import ServerConfig
from narthex_server.config.tls import Tls

SERVERS = Path(__file__).parent / "servers"
EVERYTHING = {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}}
ADA = {"action": "accept", "content": {"name": "Ada"}}


def script(name: str, *args: str) -> dict:
    return {"command": sys.executable, "args": [str(SERVERS / f"{name}.py"), *args]}


@pytest.fixture
def server(tmp_path):
    """`async with server({name: entry}, **fields of ServerConfig) as address`: a server with these upstreams."""
    made = iter(range(10))

    @asynccontextmanager
    async def run(upstreams: dict, **fields) -> AsyncIterator[str]:
        path = tmp_path / f"mcp-{next(made)}.json"
        path.write_text(json.dumps({"mcpServers": upstreams}))
        free = Address("127.0.0.1", 0)
        config = ServerConfig(**{"grpc": free, "metrics": free, "mcp_config": path, "shutdown_grace": 0.5, **fields})
        async with serving(config) as ready:
            yield str(ready.grpc)

    return run


def text(result: wire.ToolResult) -> str:
    return json.loads(result.content)[0]["text"]


def behind(address: str, **more) -> dict:
    return {"far": {"url": f"grpc://{address}", **more}}


async def test_tools_are_called_through_two_servers_with_progress_logs_and_errors(server):
    async with (
        server({"rich": script("rich", "stdio")}) as inner,
        server(behind(inner)) as outer,
        narthex.Client(outer) as client,
    ):
        names = {tool.name: tool for tool in await client.list_tools()}
        assert names["far__rich__echo"].server == "far"
        assert json.loads(names["far__rich__echo"].input_schema)["required"] == ["text"]
        events = [event async for event in client.call_tool_stream("far__rich__steps", {"count": 2})]
        assert [e.progress.message for e in events if e.HasField("progress")] == ["step 1", "step 2"]
        assert [json.loads(e.log.data) for e in events if e.HasField("log")] == ["did 1", "did 2"]
        assert text(events[-1].result) == "done"
        assert (await client.call_tool("far__rich__fail")).is_error
        with pytest.raises(narthex.NarthexError) as wrong:
            await client.call_tool("far__rich__echo", {"text": 3})
        assert wrong.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert wrong.value.violations[0].field == "text"
        with pytest.raises(narthex.NarthexError) as gone:
            await client.call_tool("far__rich__die")
        assert gone.value.code is grpc.StatusCode.UNAVAILABLE and gone.value.metadata["upstream"] == "far"


async def test_the_far_tools_that_call_others_are_no_way_past_our_rules(server, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[[rules]]\nname = "no"\neffect = "deny"\ntools = ["far__rich__echo"]\n'
        '[[rules]]\nname = "rest"\neffect = "allow"\n'
    )
    async with (
        server({"rich": script("rich", "stdio")}, catalog=CatalogSettings(search="on")) as inner,
        server(behind(inner), policy=policy) as outer,
        narthex.Client(inner) as near,
        narthex.Client(outer) as client,
    ):
        assert {"tools__call", "tools__search"} <= {tool.name for tool in await near.list_tools()}
        names = {tool.name for tool in await client.list_tools()}
        assert "far__rich__fail" in names and not {name for name in names if "tools__" in name}
        for name in ("far__tools__call", "far::tools__call", "far.tools__call"):
            with pytest.raises(narthex.NarthexError) as hidden:
                await client.call_tool(name, {"name": "rich__echo", "arguments": {"text": "x"}})
            assert hidden.value.code is grpc.StatusCode.NOT_FOUND


async def test_a_call_that_is_left_is_cancelled_at_the_far_end(server):
    async with (
        server({"rich": script("rich", "stdio")}) as inner,
        server(behind(inner)) as outer,
        narthex.Client(outer) as client,
    ):
        async with aclosing(client.call_tool_stream("far__rich__hang")) as events:
            assert (await anext(events)).progress.message == "hanging"
        async with asyncio.timeout(10):
            while text(await client.call_tool("far__rich__times_cancelled")) != "1":
                pass
        late = narthex.Client(outer, timeout=0.5)
        with pytest.raises(narthex.NarthexError) as caught:
            await late.call_tool("far__rich__hang")
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await late.close()


async def test_new_tools_appear_through_two_servers(server):
    async with (
        server({"rich": script("rich", "stdio")}) as inner,
        server(behind(inner)) as outer,
        narthex.Client(outer) as client,
    ):
        stub = ToolServiceStub(grpc.aio.insecure_channel(outer))
        changes = stub.WatchTools(wire.WatchToolsRequest())
        await changes.read()
        await client.call_tool("far__rich__grow", {"name": "fresh"})
        async with asyncio.timeout(10):
            while "far__rich__fresh" not in {tool.name for tool in await client.list_tools()}:
                await changes.read()
        changes.cancel()


@pytest.mark.parametrize(("tool", "protocol"), [("form", "handshake"), ("twice", "auto")])
async def test_a_tool_asks_its_caller_through_two_servers(server, tool, protocol):
    """While the call runs, and by its result."""

    async def answer(request: wire.InputRequest):
        asked.append((request.mcp.method, json.loads(request.mcp.params)["message"]))
        return ADA

    asked: list = []
    async with (
        server({"asking": {**script("asking", "stdio"), "protocol": protocol}}) as inner,
        server(behind(inner)) as outer,
        narthex.Client(outer) as client,
    ):
        result = await client.call_tool(f"far__asking__{tool}", on_input=answer)
        assert "Ada" in text(result)
        assert asked == [("elicitation/create", "Who are you?")]
        with pytest.raises(narthex.NarthexError) as caught:
            await client.call_tool("far__asking__needs_sampling")
        assert caught.value.reason == "MISSING_CLIENT_CAPABILITY"


async def test_an_answer_that_does_not_fit_ends_the_question_and_not_the_call(server):
    async def answer(request: wire.InputRequest):
        return {"action": "perhaps"}

    async with (
        server({"asking": {**script("asking", "stdio"), "protocol": "handshake"}}) as inner,
        server(behind(inner)) as outer,
        narthex.Client(outer) as client,
    ):
        assert "does not fit" in text(await client.call_tool("far__asking__form", on_input=answer))


async def test_resources_prompts_and_completion_through_two_servers(server):
    async with (
        server({"lib": script("library", "2025-11-25", "lib")}) as inner,
        server(behind(inner)) as outer,
        narthex.Client(outer) as client,
    ):
        stub = ToolServiceStub(grpc.aio.insecure_channel(outer))
        listed = (await stub.ListResources(wire.ListResourcesRequest())).resources
        assert {one.uri for one in listed} == {"demo://same", "demo://lib/one"} and listed[0].server == "far"
        templates = (await stub.ListResourceTemplates(wire.ListResourceTemplatesRequest())).resource_templates
        assert templates[0].uri_template == "demo://lib/items/{id}"
        read = await stub.ReadResource(wire.ReadResourceRequest(uri="demo://lib/one"))
        assert read.contents[0].text
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ReadResource(wire.ReadResourceRequest(uri="demo://nowhere"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        prompts = (await stub.ListPrompts(wire.ListPromptsRequest())).prompts
        assert "far__lib__greet" in {one.name for one in prompts}
        filled = await stub.GetPrompt(wire.GetPromptRequest(name="far__lib__greet", arguments={"who": "Ada"}))
        assert filled.messages
        await stub.Complete(wire.CompleteRequest(prompt="far__lib__greet", argument="who", value=""))
        changes = stub.WatchResources(wire.WatchResourcesRequest(uris=["demo://lib/one"]))
        await changes.read()
        names = {tool.name for tool in await client.list_tools()}
        assert "far__lib__touch" in names, names
        await client.call_tool("far__lib__touch", {"name": "demo://lib/one"})
        async with asyncio.timeout(10):
            assert (await changes.read()).updated_uri == "demo://lib/one"
        changes.cancel()


async def test_two_servers_that_name_each_other_do_not_forward_in_a_circle(server, unused_tcp_port_factory):
    first, second = (Address("127.0.0.1", unused_tcp_port_factory()) for _ in range(2))
    async with (
        server({"b": {"url": f"grpc://{second}"}, "rich": script("rich", "stdio")}, grpc=first),
        server({"a": {"url": f"grpc://{first}"}}, grpc=second),
        narthex.Client(str(second)) as client,
    ):
        upstreams = UpstreamServiceStub(grpc.aio.insecure_channel(str(first)))
        status = (await upstreams.ReconnectUpstream(upstream_pb2.ReconnectUpstreamRequest(name="b"))).upstream
        assert status.state == upstream_pb2.UPSTREAM_STATE_UNHEALTHY and "itself" in status.failure
        assert {tool.name for tool in await client.list_tools()} >= {"a__rich__echo"}
        assert not any("a__b" in tool.name for tool in await client.list_tools())


async def test_a_call_that_was_here_before_is_refused(server):
    async with server({"rich": script("rich", "stdio")}) as address:
        stub = ToolServiceStub(grpc.aio.insecure_channel(address))
        instance = (await stub.ListTools(wire.ListToolsRequest())).instances[0]
        for via, reason in ((instance, "come back"), (",".join(f"{n:032x}" for n in range(9)), "passed 9 servers")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CallTool(wire.CallToolRequest(name="rich__echo"), metadata=(("x-narthex-via", via),)).read()
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION and reason in caught.value.details()


async def test_a_server_that_is_away_is_unavailable_and_found_again(server, unused_tcp_port_factory):
    port = Address("127.0.0.1", unused_tcp_port_factory())
    async with server(behind(str(port))) as outer, narthex.Client(outer) as client:
        with pytest.raises(narthex.NarthexError) as caught:
            await client.call_tool("far__rich__echo", {"text": "x"})
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE and "far" in caught.value.message
        async with server({"rich": script("rich", "stdio")}, grpc=port):
            upstreams = UpstreamServiceStub(grpc.aio.insecure_channel(outer))
            await upstreams.ReconnectUpstream(upstream_pb2.ReconnectUpstreamRequest(name="far"))
            assert text(await client.call_tool("far__rich__echo", {"text": "back"})) == "back"


async def test_keys_tls_and_whose_call_it_is(server, tmp_path, authority):
    secret, key = new_key("outer", "acme", delegate=True)
    append_key(tmp_path / "keys.toml", key)
    (tmp_path / "key").write_text(secret + "\n")
    folder = authority.folder
    tls = Tls(cert=folder / "elsewhere.pem", key=folder / "elsewhere.key", client_ca=folder / "ca.pem")
    ours = {"ca": str(folder / "ca.pem"), "cert": str(folder / "client.pem"), "key": str(folder / "client.key")}
    far = {
        "api_key": {"file": str(tmp_path / "key")},
        "delegate": True,
        "tls": {**ours, "server_name": "inner.example"},
    }
    async with server({"rich": script("rich", "stdio")}, api_key_file=tmp_path / "keys.toml", tls=tls) as inner:
        entry = behind(inner, **far)
        entry["far"]["url"] = f"grpcs://{inner}"
        entry["other"] = {**entry["far"], "api_key": "wrong-key-of-mine"}
        async with server(entry) as outer, narthex.Client(outer) as client:
            assert text(await client.call_tool("far__rich__echo", {"text": "safe"})) == "safe"
            stub = UpstreamServiceStub(grpc.aio.insecure_channel(outer))
            listed = (await stub.ListUpstreams(upstream_pb2.ListUpstreamsRequest())).upstreams
            assert listed[0].transport == "narthex" and listed[0].protocol_version == "narthex.v1"
            assert "does not take our key" in listed[1].failure and "wrong-key" not in listed[1].failure
            assert secret not in str(listed)


async def test_callers_bring_keys_of_their_own(server, tmp_path):
    secret, key = new_key("ada", "acme")
    listing, ours = new_key("outer", "acme")
    append_key(tmp_path / "keys.toml", key)
    append_key(tmp_path / "keys.toml", ours)
    async with (
        server({"rich": script("rich", "stdio")}, api_key_file=tmp_path / "keys.toml") as inner,
        server(behind(inner, api_key=listing, auth={"type": "passthrough"})) as outer,
    ):
        stub = ToolServiceStub(grpc.aio.insecure_channel(outer))
        request = wire.CallToolRequest(name="far__rich__echo", arguments=b'{"text":"mine"}')
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CallTool(request).read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "x-narthex-upstream-token-far" in caught.value.details()
        event = await stub.CallTool(request, metadata=(("x-narthex-upstream-token-far", secret),)).read()
        assert text(event.result) == "mine"
