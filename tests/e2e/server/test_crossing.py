"""One caller's key, and every way into the server: no way leads around what another one refuses."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToJson
from narthex.keys import new_key
from narthex.messages import user
from narthex.v1 import generation_pb2 as chat
from narthex.v1 import tool_pb2 as wire
from narthex.v1 import upstream_pb2
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub

COUNTING = str(Path(__file__).parents[1] / "upstreams" / "servers" / "counting.py")
KEYS = {name: new_key(name, tenant) for name, tenant in (("ann", "a"), ("amy", "a"), ("bob", "b"))}
POLICY = """
[[rules]]
name = "no two"
effect = "deny"
servers = ["all"]
tools = ["named"]
arguments = { "/n" = { equals = 2 } }

[[rules]]
name = "no write"
effect = "deny"
servers = ["all"]
tools = ["write"]

[[rules]]
name = "seldom"
effect = "allow"
servers = ["all"]
tools = ["look"]
rate = "3/hour"
per = "tenant"

[[rules]]
name = "ask"
effect = "confirm"
servers = ["all"]
tools = ["peek"]

[[rules]]
name = "rest"
effect = "allow"
"""
DEEP = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
WIDE = b'{"a":"' + b"x" * (9 << 20) + b'"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("crossing")


@pytest.fixture(scope="module")
def server(launch, demo, folder):
    (folder / "keys.toml").write_text("".join(key.toml for _, key in KEYS.values()))
    (folder / "policy.toml").write_text(POLICY)
    counting = {"command": sys.executable, "args": [COUNTING], "env": {"PASSWORD": "a secret of an upstream"}}
    servers = {
        "all": {**counting, "scope": "shared", "cache": {"tools": ["named", "peek"], "ttl_secs": 300}},
        "each": {**counting, "scope": "tenant"},
    }
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    files = {
        "--mcp-config": "mcp.json",
        "--api-key-file": "keys.toml",
        "--policy": "policy.toml",
        "--audit-path": "audit",
    }
    options = [text for option, name in files.items() for text in (option, str(folder / name))]
    return launch("--model", demo, *options, "--audit", "--audit-interval", "0", "--catalog-search", "on")


@pytest.fixture
async def callers(server, channel):
    made = {name: Caller(channel, secret) for name, (secret, _) in KEYS.items()}
    watching = made["ann"].tools.WatchTools(wire.WatchToolsRequest(), metadata=made["ann"].metadata, timeout=60)
    async for _ in watching:
        if {tool.server for tool in await made["ann"].listed()} >= {"all", "each"}:
            break
    watching.cancel()
    return made


@pytest.fixture
def ann(callers):
    return callers["ann"]


@pytest.fixture
def records(folder):
    """What the record says of a request."""

    def read(request_id: str) -> list[dict]:
        command = [sys.executable, "-m", "narthex.cli.main", "audit", "export", str(folder / "audit")]
        for _ in range(100):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            found = [json.loads(line) for line in done.stdout.splitlines()]
            if own := [one for one in found if one["request"].partition("/")[0] == request_id]:
                return own
        raise AssertionError(done.stdout)

    return read


class Caller:
    def __init__(self, channel: grpc.aio.Channel, secret: str) -> None:
        self.tools, self.chats = ToolServiceStub(channel), GenerationServiceStub(channel)
        self.upstreams = UpstreamServiceStub(channel)
        self.metadata = [("authorization", f"Bearer {secret}")]

    async def listed(self):
        return (await self.tools.ListTools(wire.ListToolsRequest(), metadata=self.metadata)).tools

    async def ask(self, method, request, request_id: str = ""):
        named = [("x-request-id", request_id)] if request_id else []
        call = method(request, metadata=[*self.metadata, *named], timeout=60)
        return [event async for event in call] if isinstance(call, grpc.aio.UnaryStreamCall) else await call

    async def call(self, name: str, arguments: bytes = b"{}", **more):
        return (await self.ask(self.tools.CallTool, wire.CallToolRequest(name=name, arguments=arguments, **more)))[-1]

    async def batch(self, *calls: tuple[str, bytes], request_id: str = "") -> list[wire.CallToolsResponse]:
        """The last event of each."""
        request = wire.CallToolsRequest(calls=[wire.ToolInvocation(name=one, arguments=raw) for one, raw in calls])
        events = await self.ask(self.tools.CallTools, request, request_id)
        return [events[-1] for _, events in sorted({one.index: [one] for one in events}.items())]


def by_way_of_another(name: str, arguments: bytes) -> bytes:
    return b'{"name":%s,"arguments":%s}' % (json.dumps(name).encode(), arguments)


def number(event) -> int:
    return json.loads(json.loads(event.result.content)[0]["text"])["call"]


@pytest.mark.parametrize("name", ["all__named", "all::named", "all.named"])
@pytest.mark.parametrize("arguments", [b'{"n":2}', b'{"n":1,"n":2}', b'{"n":2.0}', b'{"\\u006e":2}'])
async def test_arguments_that_are_refused_are_refused_on_every_way(ann, failure, name, arguments):
    await ann.call("all__named", b'{"n":1}')
    nested = by_way_of_another(name, arguments)
    for way, raw in ((name, arguments), ("tools__call", nested), ("tools__call", b'{"name":"all__look",' + nested[1:])):
        refused = await failure(ann.ask(ann.tools.CallTool, wire.CallToolRequest(name=way, arguments=raw)))
        assert (refused.reason, refused.metadata["rule"]) == ("POLICY_DENIED", "no two")
        (one,) = await ann.batch((way, raw))
        assert one.failure.reason == "POLICY_DENIED"


async def test_a_tool_that_is_hidden_is_hidden_on_every_way(ann, failure):
    for name in ("all__write", "all::write", "all.write"):
        for way, raw in ((name, b"{}"), ("tools__call", by_way_of_another(name, b"{}"))):
            hidden = await failure(ann.ask(ann.tools.CallTool, wire.CallToolRequest(name=way, arguments=raw)))
            assert hidden.reason == "TOOL_NOT_FOUND"
            assert (await ann.batch((way, raw)))[0].failure.reason == "TOOL_NOT_FOUND"
    found = await ann.call("tools__search", b'{"query":"write","limit":50}')
    assert "all__write" not in str(found)
    spec = chat.ChatSpec(messages=[user("x")], tool_execution=chat.TOOL_EXECUTION_SERVER, catalog_tools=["all__write"])
    assert (await failure(ann.ask(ann.chats.ChatStream, chat.ChatStreamRequest(spec=spec)))).code is (
        grpc.StatusCode.NOT_FOUND
    )


async def test_a_batch_and_another_key_do_not_get_around_a_rate(callers, failure):
    calls = [("all__look", b'{"n":%d}' % n) for n in range(8)]
    calls += [("tools__call", by_way_of_another("all__look", b'{"n":%d}' % n)) for n in range(8, 12)]
    ends = await callers["ann"].batch(*calls)
    assert sum(one.event.HasField("result") for one in ends) == 3
    assert {one.failure.reason for one in ends if one.HasField("failure")} == {"POLICY_RATE"}
    kept = next(raw for (_, raw), one in zip(calls[:8], ends, strict=False) if one.event.HasField("result"))
    for name in ("ann", "amy"):
        request = wire.CallToolRequest(name="all__look", arguments=kept)
        limited = await failure(callers[name].ask(callers[name].tools.CallTool, request))
        assert limited.reason == "POLICY_RATE", "although the result is kept"


async def test_a_kept_result_needs_a_yes_like_any_other(callers, failure):
    async def approved(who: Caller, answer: bool) -> wire.CallToolResponse:
        request = wire.CallToolRequest(name="all__peek", arguments=b'{"n":1}', answers_approvals=True)
        async for event in who.tools.CallTool(request, metadata=who.metadata, timeout=60):
            if event.HasField("input_required"):
                wish = event.input_required
                said = wire.InputResponse(id=wish.requests[0].id, approved=answer)
                reply = wire.RespondRequest(call_id=wish.call_id, responses=[said])
                stranger = await failure(callers["bob"].ask(callers["bob"].tools.Respond, reply))
                assert stranger.reason == "CALL_NOT_FOUND"
                await who.ask(who.tools.Respond, reply)
        return event

    first = await approved(callers["ann"], True)
    assert number(await approved(callers["amy"], True)) == number(first)
    with pytest.raises(grpc.aio.AioRpcError, match="declined"):
        await approved(callers["ann"], False)
    raw = b'{"n":1}'
    ends = await callers["ann"].batch(("all__peek", raw), ("tools__call", by_way_of_another("all__peek", raw)))
    assert [one.failure.reason for one in ends] == ["APPROVAL_UNAVAILABLE"] * 2


async def test_calls_of_a_batch_are_in_the_record_with_their_rule_and_without_their_values(ann, records):
    await ann.batch(("all__named", b'{"n":2}'), ("all__named", b'{"n":3,"password":"hunter22"}'), request_id="batch")
    first, second = await asyncio.to_thread(records, "batch")
    refused, made = (first, second) if first["outcome"] == "denied" else (second, first)
    assert (refused["rule"], refused["reason"], refused["key"]) == ("no two", "POLICY_DENIED", "ann")
    assert (made["rule"], made["outcome"]) == ("rest", "ok") and "hunter22" not in json.dumps(made)


async def test_what_a_model_was_not_shown_is_its_callers_alone_and_its_reading_is_recorded(callers, failure, records):
    ann = callers["ann"]
    spec = chat.ChatSpec(
        messages=[user("x")],
        tool_execution=chat.TOOL_EXECUTION_SERVER,
        catalog_tools=["list_models"],
        max_tool_rounds=1,
        session=chat.SessionUse(),
    )
    spec.sampling.temperature = 0
    spec.stopping.max_tokens = 96
    spec.tool_choice.name = "list_models"
    spec.agent.results.max_bytes = 256
    spec.agent.results.max_tokens = 64
    events = await ann.ask(ann.chats.ChatStream, chat.ChatStreamRequest(spec=spec, resumable=True))
    uri = re.search(r"narthex://results/[\w-]+", " ".join(map(MessageToJson, events)))[0]
    request = wire.ReadResourceRequest(uri=uri)
    assert (await ann.ask(ann.tools.ReadResource, request, "kept")).contents[0].text
    (record,) = await asyncio.to_thread(records, "kept")
    assert (record["kind"], record["outcome"], record["asked"]) == ("resource", "ok", uri)
    started = next(event.started for event in events if event.HasField("started"))
    for name in ("amy", "bob"):
        other = callers[name]
        for method, asked in (
            (other.tools.ReadResource, request),
            (other.chats.ResumeChat, chat.ResumeChatRequest(run_id=started.run_id)),
            (other.chats.GetSession, chat.GetSessionRequest(id=started.session_id)),
            (other.chats.DeleteSession, chat.DeleteSessionRequest(id=started.session_id)),
            (
                other.chats.Chat,
                chat.ChatRequest(
                    spec=chat.ChatSpec(messages=[user("x")], session=chat.SessionUse(id=started.session_id))
                ),
            ),
        ):
            assert (await failure(other.ask(method, asked))).code is grpc.StatusCode.NOT_FOUND, method
        assert not (await other.ask(other.chats.ListSessions, chat.ListSessionsRequest())).sessions


async def test_nobody_but_an_admin_changes_what_others_have(ann, failure, records):
    added = upstream_pb2.UpstreamSpec(name="mine", http=upstream_pb2.HttpSource(url="http://127.0.0.1:1/"))
    for request_id, method, request in (
        ("add", ann.upstreams.AddUpstream, upstream_pb2.AddUpstreamRequest(spec=added)),
        ("remove", ann.upstreams.RemoveUpstream, upstream_pb2.RemoveUpstreamRequest(name="all")),
        ("reconnect", ann.upstreams.ReconnectUpstream, upstream_pb2.ReconnectUpstreamRequest(name="all")),
    ):
        assert (await failure(ann.ask(method, request, request_id))).code is grpc.StatusCode.PERMISSION_DENIED
        (act,) = await asyncio.to_thread(records, request_id)
        assert (act["verb"], act["reason"], act["key"]) == (f"upstream.{request_id}", "PERMISSION_DENIED", "ann")
    await ann.ask(ann.upstreams.ReconnectUpstream, upstream_pb2.ReconnectUpstreamRequest(name="each"))


async def test_a_tenant_does_not_see_when_another_calls(callers):
    async def last_success(name: str) -> str:
        found = await callers[name].ask(callers[name].upstreams.ListUpstreams, upstream_pb2.ListUpstreamsRequest())
        return str(next(one for one in found.upstreams if one.name == "each").last_success_time)

    before = await last_success("bob")
    await callers["ann"].call("each__write")
    assert await last_success("bob") == before != await last_success("ann")


async def test_nobody_relays_calls_for_others(ann, failure):
    calls = ann.tools.RelayCalls(iter([]), metadata=ann.metadata, timeout=60)
    assert (await failure(calls)).code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("arguments", [DEEP, WIDE], ids=["deep", "wide"])
async def test_monstrous_arguments_are_refused_on_every_way(ann, failure, arguments):
    for name, raw in (("all__named", arguments), ("tools__call", by_way_of_another("all__named", arguments))):
        refused = await failure(ann.ask(ann.tools.CallTool, wire.CallToolRequest(name=name, arguments=raw)))
        assert refused.reason == "INVALID_TOOL_ARGUMENTS"
        assert (await ann.batch((name, raw)))[0].failure.reason == "INVALID_TOOL_ARGUMENTS"


async def test_no_listing_log_or_metric_has_a_secret(server, ann):
    shown = await ann.ask(ann.upstreams.ListUpstreams, upstream_pb2.ListUpstreamsRequest())
    texts = (str(shown), server.log.read_text(), str(server.metrics()))
    secrets = ("a secret of an upstream", *(secret for secret, _ in KEYS.values()))
    assert not [secret for secret in secrets if any(secret in text for text in texts)]


async def test_what_is_kept_is_not_told_to_whom_a_newer_policy_forbids_it(server, callers, folder, failure):
    amy, raw = callers["amy"], b'{"n":7}'
    first = await callers["ann"].call("all__named", raw)
    assert number(await amy.call("all__named", raw)) == number(first)
    before = server.metric("narthex_policy_reloads_total", outcome="ok")
    (folder / "policy.toml").write_text('[[rules]]\nname = "amy"\neffect = "deny"\nkeys = ["amy"]\n' + POLICY)
    async with asyncio.timeout(30):
        while server.metric("narthex_policy_reloads_total", outcome="ok") == before:
            await asyncio.to_thread(server.metrics)
    for way, arguments in (("all__named", raw), ("tools__call", by_way_of_another("all__named", raw))):
        request = wire.CallToolRequest(name=way, arguments=arguments)
        assert (await failure(amy.ask(amy.tools.CallTool, request))).code is grpc.StatusCode.NOT_FOUND
        assert (await amy.batch((way, arguments)))[0].failure.reason == "TOOL_NOT_FOUND"
    assert not await amy.listed() and number(await callers["ann"].call("all__named", raw)) == number(first)
