"""Two tenants of one stack: what one plants, asks or is told never reaches the other, by any way that there is."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from narthex.keys import new_key
from narthex.v1 import tool_pb2, upstream_pb2
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub

from tests.e2e.processes import READY_S, started

KEEPER = Path(__file__).parents[1] / "upstreams" / "servers" / "keeper.py"
NOTES = "keeper://notes"
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
ASKS = tool_pb2.McpContext(client_capabilities=b'{"elicitation":{}}', log_level=tool_pb2.LOG_LEVEL_DEBUG)


@dataclass
class Tenant:
    """A caller over gRPC; everything that it was ever told is in `seen`."""

    tools: ToolServiceStub
    upstreams: UpstreamServiceStub
    secret: str
    session: str = ""
    seen: str = ""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        named = [("x-narthex-session", self.session)] if self.session else []
        return [("authorization", f"Bearer {self.secret}"), *named]

    def within(self, session: str) -> "Tenant":
        return Tenant(self.tools, self.upstreams, self.secret, session)

    async def ask(self, method, request):
        answer = await method(request, metadata=self.metadata, timeout=READY_S)
        self.seen += str(answer)
        return answer

    async def refused(self, method, request) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if isinstance(call := method(request, metadata=self.metadata, timeout=READY_S), grpc.aio.UnaryStreamCall):
                self.seen += "".join([str(event) async for event in call])
            else:
                await call
        self.seen += f"{caught.value.details()} {caught.value.trailing_metadata()}"
        return caught.value

    async def call(self, name: str, text: str = "", call_id: str = "") -> dict:
        arguments = json.dumps({"text": text}).encode()
        request = tool_pb2.CallToolRequest(name=name, arguments=arguments, call_id=call_id, mcp=ASKS)
        async for event in self.tools.CallTool(request, metadata=self.metadata, timeout=READY_S):
            self.seen += str(event)
            self.news.set()
        assert event.HasField("result")
        said = json.loads(event.result.content)[0]["text"]
        return {} if event.result.is_error else json.loads(said)

    async def until(self, text: str) -> None:
        """Returns when it was told this."""
        async with asyncio.timeout(READY_S):
            while text not in self.seen:
                self.news.clear()
                await self.news.wait()

    async def names(self) -> list[str]:
        return [tool.name for tool in (await self.ask(self.tools.ListTools, tool_pb2.ListToolsRequest())).tools]

    async def everything(self) -> None:
        """Asks for all that can be asked for without knowing anything."""
        for method, request in (
            (self.tools.ListTools, tool_pb2.ListToolsRequest()),
            (self.tools.ListResources, tool_pb2.ListResourcesRequest()),
            (self.tools.ListResourceTemplates, tool_pb2.ListResourceTemplatesRequest()),
            (self.tools.ListPrompts, tool_pb2.ListPromptsRequest()),
            (self.upstreams.ListUpstreams, upstream_pb2.ListUpstreamsRequest()),
        ):
            await self.ask(method, request)


@dataclass
class Stack:
    ann: Tenant
    bob: Tenant
    bridge: str
    metrics: str

    @asynccontextmanager
    async def http(self, who: Tenant) -> AsyncIterator[httpx.AsyncClient]:
        headers = {"authorization": f"Bearer {who.secret}", "accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(base_url=f"http://{self.bridge}", headers=headers, timeout=READY_S) as client:
            yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory) -> AsyncIterator[Stack]:
    """`common` is everybody's, `one` has a connection for each session, `vault` is a's and `safe` b's; each of the last
    two is called `own` by its tenant."""
    folder = tmp_path_factory.mktemp("isolation")
    (ann, ann_key), (bob, bob_key) = new_key("ann", "a"), new_key("bob", "b")
    (folder / "keys.toml").write_text(ann_key.toml + bob_key.toml)

    def server(name: str, **more) -> dict:
        source = {"type": "Process", "command": sys.executable, "args": [str(KEEPER), name]}
        return {"name": name, "source": source, **more}

    servers = [
        server("common"),
        server("one", scope="session"),
        server("vault", tool_prefix="own", tenants=["a"]),
        server("safe", tool_prefix="own", tenants=["b*"]),
    ]
    (folder / "mcp.json").write_text(json.dumps({"servers": servers}))
    keys, shared = ("--api-key-file", folder / "keys.toml"), {"NARTHEX_DELEGATE_TOKEN": "what both know"}
    own = ("--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--mcp-config", folder / "mcp.json")
    async with (
        started("narthex_server.main", *own, *keys, log=folder / "server.log", **shared) as ready,
        started(
            "narthex_bridge.main", "--http", "127.0.0.1:0", "--server", ready["grpc"], *keys,
            log=folder / "bridge.log", **shared,
        ) as bridge,
        grpc.aio.insecure_channel(ready["grpc"]) as channel,
    ):  # fmt: skip
        stubs = ToolServiceStub(channel), UpstreamServiceStub(channel)
        made = Stack(Tenant(*stubs, ann), Tenant(*stubs, bob), bridge["http"], ready["metrics"])
        for tenant in (made.ann, made.bob):
            watch = tenant.tools.WatchTools(tool_pb2.WatchToolsRequest(), metadata=tenant.metadata, timeout=READY_S)
            async for _ in watch:
                if {"common__keep", "one__keep", "own_keep"} <= set(await tenant.names()):
                    break
        yield made


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def ann(stack) -> Tenant:
    return stack.ann.within("")


@pytest.fixture
def bob(stack) -> Tenant:
    return stack.bob.within("")


async def test_what_one_tells_a_server_of_all_the_other_is_told_by_no_way(ann, bob):
    mine = await ann.call("common__keep", "planted by ann")
    assert "planted by ann" in mine["kept"]
    assert "planted by ann" in ann.seen.replace(str(mine), ""), "in its log and progress too"
    theirs = await bob.call("common__recall")
    assert theirs["pid"] != mine["pid"]
    for name in ("common__fail", "common::recall", "common.recall"):
        await bob.call(name)
    for uri in (NOTES, f"common+{NOTES}", f"{NOTES}/5"):
        await bob.ask(bob.tools.ReadResource, tool_pb2.ReadResourceRequest(uri=uri))
    await bob.ask(bob.tools.GetPrompt, tool_pb2.GetPromptRequest(name="common__say"))
    await bob.ask(bob.tools.Complete, tool_pb2.CompleteRequest(prompt="common__say", argument="what"))
    await bob.ask(bob.tools.Complete, tool_pb2.CompleteRequest(uri_template="keeper://notes/{n}", argument="n"))
    await bob.everything()
    assert "planted by ann" not in bob.seen
    assert (await ann.call("common__recall"))["pid"] == mine["pid"], "it stays connected"


async def test_one_prefix_is_to_each_tenant_its_own_server(ann, bob):
    assert (await ann.call("own_recall"))["server"] == "vault"
    assert (await bob.call("own_recall"))["server"] == "safe"


@pytest.mark.parametrize("name", ["vault::recall", "vault.recall", "vault__recall", "vault__nothing"])
async def test_a_tool_of_the_others_is_not_there_by_any_name(ann, bob, name):
    there = await bob.refused(bob.tools.CallTool, tool_pb2.CallToolRequest(name=name))
    absent = await bob.refused(bob.tools.CallTool, tool_pb2.CallToolRequest(name="nowhere__recall"))
    assert there.code() is absent.code() is grpc.StatusCode.NOT_FOUND
    assert there.details().replace(name, "") == absent.details().replace("nowhere__recall", "")


async def test_resources_prompts_and_operations_know_no_name_of_the_others(bob):
    for method, request in (
        (bob.tools.ReadResource, tool_pb2.ReadResourceRequest(uri=NOTES, server="vault")),
        (bob.tools.ReadResource, tool_pb2.ReadResourceRequest(uri=f"vault+{NOTES}")),
        (bob.tools.GetPrompt, tool_pb2.GetPromptRequest(name="vault__say")),
        (bob.tools.Complete, tool_pb2.CompleteRequest(prompt="vault::say", argument="what")),
        (bob.tools.Complete, tool_pb2.CompleteRequest(uri_template="vault+keeper://notes/{n}", argument="n")),
        (bob.tools.SetLogLevel, tool_pb2.SetLogLevelRequest(level=tool_pb2.LOG_LEVEL_DEBUG, server="vault")),
        (bob.upstreams.ReconnectUpstream, upstream_pb2.ReconnectUpstreamRequest(name="vault")),
    ):
        error = await bob.refused(method, request)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "vault" not in error.details().replace("'vault'", "").replace("vault+", "").replace(
            "vault::", ""
        ).replace("vault__", "")
    bob.seen = ""
    await bob.everything()
    assert "vault" not in bob.seen and "safe" in bob.seen
    listed = (await bob.ask(bob.upstreams.ListUpstreams, upstream_pb2.ListUpstreamsRequest())).upstreams
    scopes = {one.name: one.scope for one in listed}
    assert scopes == {
        "common": upstream_pb2.UPSTREAM_SCOPE_TENANT,
        "one": upstream_pb2.UPSTREAM_SCOPE_SESSION,
        "safe": upstream_pb2.UPSTREAM_SCOPE_TENANT,
    }


async def test_a_call_that_waits_is_answered_by_its_own_tenant_alone(ann, bob):
    waiting = asyncio.create_task(ann.call("common__ask", "may I?", call_id="hers"))
    await ann.until("may I?")
    answers = [tool_pb2.InputResponse(id="1", result=b'{"action":"accept","content":{}}')]
    error = await bob.refused(bob.tools.Respond, tool_pb2.RespondRequest(call_id="hers", responses=answers))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    both = asyncio.create_task(bob.call("common__ask", "and I?", call_id="hers"))
    await bob.until("and I?")
    refusal = [tool_pb2.InputResponse(id="1", result=b'{"action":"decline"}')]
    await bob.ask(bob.tools.Respond, tool_pb2.RespondRequest(call_id="hers", responses=refusal))
    assert (await both)["answer"] == {"action": "decline"}
    assert not waiting.done(), "one id, two calls"
    await ann.ask(ann.tools.Respond, tool_pb2.RespondRequest(call_id="hers", responses=answers))
    assert (await waiting)["answer"]["action"] == "accept"
    assert "may I?" not in bob.seen and "and I?" not in ann.seen


async def test_subscriptions_and_lists_tell_each_tenant_its_own(ann, bob):
    def watching(who):
        request = tool_pb2.WatchResourcesRequest(uris=[NOTES])
        return who.tools.WatchResources(request, metadata=who.metadata, timeout=READY_S)

    def listing(who):
        return who.tools.WatchTools(tool_pb2.WatchToolsRequest(), metadata=who.metadata, timeout=READY_S)

    hers, his, her_list, his_list = watching(ann), watching(bob), listing(ann), listing(bob)
    first = [await hers.read(), await his.read(), await her_list.read(), await his_list.read()]
    await ann.call("common__keep", "x")
    assert (await hers.read()).updated_uri == NOTES
    await ann.call("own_grow", "brand_new")
    assert (await her_list.read()).tools_version == first[2].tools_version + 1
    assert "own_brand_new" in await ann.names() and "own_brand_new" not in await bob.names()
    await bob.call("own_grow", "his_own")
    news = await his_list.read()
    assert news.tools_version == first[3].tools_version + 1, "what comes first is his own, and it is one change"
    await bob.call("common__keep", "y")
    assert (await his.read()).updated_uri == NOTES, "what comes first is his own"
    for stream in (hers, his, her_list, his_list):
        stream.cancel()


async def test_sessions_of_one_name_are_each_callers_own_and_end_by_their_own_caller(stack, ann, bob):
    first, second, his = ann.within("s"), ann.within("t"), bob.within("s")
    pids = [
        (await who.call("one__keep", f"of {who.secret[-4:]}{who.session}"))["pid"] for who in (first, second, his, ann)
    ]
    assert len(set(pids)) == 4
    await his.ask(his.tools.EndSession, tool_pb2.EndSessionRequest())
    assert (await first.call("one__recall"))["pid"] == pids[0]
    await first.ask(first.tools.EndSession, tool_pb2.EndSessionRequest())
    again = await first.call("one__recall")
    assert again["pid"] != pids[0] and again["kept"] == []
    assert (await second.call("one__recall"))["pid"] == pids[1]
    error = await ann.within("no name").refused(ann.tools.ListTools, tool_pb2.ListToolsRequest())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_tools_that_pretend_to_be_others_are_under_their_servers_name(ann):
    page = await ann.ask(ann.tools.ListTools, tool_pb2.ListToolsRequest())
    assert all(len(tool.name) <= 64 and set(tool.name) < set(_ALLOWED) for tool in page.tools)
    common = [tool.name for tool in page.tools if tool.server == "common"]
    assert "common__chat" in common and "common__other__recall" in common
    assert not [
        tool.name for tool in page.tools if tool.server and tool.name in ("chat", "list_models", "other__recall")
    ]
    (long,) = (name for name in common if name.startswith("common__longlong"))
    assert (await ann.call(long))["server"] == "common"
    error = await ann.refused(ann.tools.CallTool, tool_pb2.CallToolRequest(name="chat"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


_ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


async def rpc(client, method, params=None, session=None, id=1):
    headers = {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"} if session else {}
    message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
    answer = await client.post("/mcp", json=message, headers=headers)
    return answer


async def opened(client, **capabilities) -> str:
    answer = await rpc(client, "initialize", INITIALIZE | {"capabilities": capabilities})
    return answer.headers["mcp-session-id"]


async def recalled(client, session, tool="one__recall", text="") -> dict:
    params = {"name": tool, "arguments": {"text": text}}
    answer = await rpc(client, "tools/call", params, session)
    message = answer.json() if "json" in answer.headers["content-type"] else json.loads(answer.text.split("data: ")[-1])
    assert "result" in message, message
    return json.loads(message["result"]["content"][0]["text"])


async def test_sessions_of_the_bridge_have_connections_that_end_with_them(stack, ann, bob):
    async with stack.http(ann) as hers, stack.http(bob) as his:
        first, second, other = await opened(hers), await opened(hers), await opened(his)
        pids = [(await recalled(*each))["pid"] for each in ((hers, first), (hers, second), (his, other))]
        assert len(set(pids)) == 3
        assert (await rpc(his, "ping", session=first)).status_code == 404, "another's session is none"
        stream = {"mcp-session-id": first, "accept": "text/event-stream", "last-event-id": "1"}
        assert (await his.get("/mcp", headers=stream)).status_code == 404
        assert (await his.request("DELETE", "/mcp", headers={"mcp-session-id": first})).status_code == 404
        assert (await recalled(hers, first))["pid"] == pids[0]
        assert (await hers.request("DELETE", "/mcp", headers={"mcp-session-id": first})).status_code == 204
        await gone(pids[0])
        assert (await recalled(hers, second))["pid"] == pids[1] and (await recalled(his, other))["pid"] == pids[2]


async def gone(pid: int) -> None:
    async with asyncio.timeout(READY_S):
        while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110 (not our child: nothing to wait on)
            await asyncio.sleep(0.01)


async def test_answers_and_cancellations_of_the_other_reach_no_call_of_the_same_id(stack, ann, bob):
    async with stack.http(ann) as hers, stack.http(bob) as his:
        first, other = await opened(hers, elicitation={}), await opened(his, elicitation={})
        ask = {
            "jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": {"name": "common__ask", "arguments": {"text": "may I?"}, "_meta": {"progressToken": 7}},
        }  # fmt: skip
        async with hers.stream("POST", "/mcp", json=ask, headers={"mcp-session-id": first}) as stream:
            messages = told(stream)
            request = await anext(messages)
            assert request["params"]["message"] == "may I?"
            for message in (
                {"jsonrpc": "2.0", "id": request["id"], "result": {"action": "accept", "content": {}}},
                {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}},
                {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 7, "progress": 1}},
            ):
                await his.post("/mcp", json=message, headers={"mcp-session-id": other})
                assert (await his.post("/mcp", json=message, headers={"mcp-session-id": first})).status_code == 404
            answer = {"jsonrpc": "2.0", "id": request["id"], "result": {"action": "decline"}}
            await hers.post("/mcp", json=answer, headers={"mcp-session-id": first})
            result = (await anext(messages))["result"]
            assert json.loads(result["content"][0]["text"])["answer"] == {"action": "decline"}


async def test_a_list_change_is_told_to_the_sessions_of_its_tenant(stack, ann, bob):
    async with stack.http(ann) as hers, stack.http(bob) as his:
        first, other = await opened(hers), await opened(his)
        for client, session in ((hers, first), (his, other)):
            await rpc(client, "tools/list", session=session)
        stream = {"mcp-protocol-version": "2025-11-25", "accept": "text/event-stream"}
        async with (
            hers.stream("GET", "/mcp", headers={**stream, "mcp-session-id": first}) as she,
            his.stream("GET", "/mcp", headers={**stream, "mcp-session-id": other}) as he,
        ):
            await recalled(hers, first, "own_grow", "for_her_bridge")
            assert (await anext(told(she)))["method"] == "notifications/tools/list_changed"
            # News of the change have been everywhere by now; a change of his own shows that nothing came before it.
            await recalled(his, other, "own_grow", "for_his_bridge")
            assert (await anext(told(he)))["method"] == "notifications/tools/list_changed"
            names = [tool["name"] for tool in (await rpc(his, "tools/list", session=other)).json()["result"]["tools"]]
            assert "own_for_his_bridge" in names and "own_for_her_bridge" not in names
            assert "for_her_bridge" in (await rpc(hers, "tools/list", session=first)).text


async def told(stream) -> AsyncIterator[dict]:
    async with asyncio.timeout(READY_S):
        async for line in stream.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


async def test_under_load_no_byte_of_one_reaches_the_other(stack, ann, bob):
    async def work(who: Tenant, client: httpx.AsyncClient, mark: str) -> str:
        session, seen = await opened(client), []

        async def http(number: int) -> None:
            meta = {"progressToken": number}
            for tool in ("common__keep", "one__keep", "own_keep"):
                params = {"name": tool, "arguments": {"text": f"{mark}-{number}"}, "_meta": meta}
                seen.append((await rpc(client, "tools/call", params, session, id=f"{tool}{number}")).text)
            seen.append((await rpc(client, "tools/list", session=session, id=f"l{number}")).text)
            seen.append((await rpc(client, "resources/read", {"uri": NOTES}, session, id=f"r{number}")).text)

        async def direct(number: int) -> None:
            for tool in ("common__keep", "own_keep", "one__keep"):
                await who.call(tool, f"{mark}-{number}", call_id=f"call-{number}")
            await who.ask(who.tools.ReadResource, tool_pb2.ReadResourceRequest(uri=NOTES))

        await asyncio.gather(*(each(number) for number in range(25) for each in (http, direct)))
        return who.seen + "".join(seen)

    async with stack.http(ann) as hers, stack.http(bob) as his:
        seen_by_ann, seen_by_bob = await asyncio.gather(work(ann, hers, "mark-of-ann"), work(bob, his, "mark-of-bob"))
    assert seen_by_ann.count("mark-of-ann") > 500 and seen_by_bob.count("mark-of-bob") > 500
    assert "mark-of-bob" not in seen_by_ann and "mark-of-ann" not in seen_by_bob


async def test_metrics_have_no_tenant_in_them(stack, ann, bob):
    await ann.call("own_recall")
    await asyncio.gather(*(one.call("common__recall") for one in (ann, bob)))
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{stack.metrics}/metrics")).text
    assert 'narthex_upstream_connections{server="common"} 3.0' in text, "the one that lists, and one for each tenant"
    assert "tenant" not in text and "ann" not in text.replace("channel", "") and "planted" not in text
