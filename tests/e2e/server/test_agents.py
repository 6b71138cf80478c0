"""Runs of tools by the demo model and real MCP servers, as docs/agents.md says, also over a server's death."""

import asyncio
import json
import re
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from narthex import Client, NarthexError
from narthex.messages import user
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import tool_pb2
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "agents.md").read_text("utf-8")
ASKING = ROOT / "tests" / "e2e" / "upstreams" / "servers" / "asking.py"
BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```\n\n<!-- output: \1 -->\n```text\n(.*?)```", GUIDE, re.S)
CLOCK = {"command": sys.executable, "args": ["-m", "mcp_server_time"]}
TIME = "time__get_current_time"


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    config = tmp_path_factory.mktemp("asking") / "mcp-config.json"
    entry = {"command": sys.executable, "args": [str(ASKING), "stdio"]}
    servers = {"time": CLOCK, "asking": entry | {"protocol": "handshake"}, "modern": entry}
    config.write_text(json.dumps({"mcpServers": servers}))
    return config


@pytest.fixture(scope="module")
def server(launch, demo, asking):
    return launch("--model", demo, "--mcp-config", str(asking))


@pytest.fixture(scope="module")
def clock(launch, demo, tmp_path_factory):
    """A server with so few tools that the demo model reads all of them."""
    config = tmp_path_factory.mktemp("clock") / "mcp-config.json"
    config.write_text(json.dumps({"mcpServers": {"time": CLOCK}}))
    return launch("--model", demo, "--mcp-config", str(config))


@pytest.fixture
async def client(server, settled):
    async with Client(server.grpc) as opened:
        yield opened


def question(*tools: str, **more) -> wire.ChatSpec:
    spec = wire.ChatSpec(
        messages=[user("What time is it in Rome?")],
        tool_execution=wire.TOOL_EXECUTION_SERVER,
        catalog_tools=tools or [TIME],
        **more,
    )
    spec.sampling.temperature = 0
    spec.stopping.max_tokens = 96
    return spec


@pytest.mark.parametrize(("name", "code", "expected"), BLOCKS, ids=[name for name, _, _ in BLOCKS])
async def test_the_guide_says_what_happens(server, settled, name, code, expected):
    assert "127.0.0.1:50051" in code
    run = [sys.executable, "-W", "error", "-c", code.replace("127.0.0.1:50051", server.grpc)]
    done = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    pattern = re.escape(expected.strip()).replace("…", ".*")
    assert re.fullmatch(pattern, done.stdout.strip(), re.S), done.stdout


def test_the_guide_has_examples():
    assert len(BLOCKS) == GUIDE.count("```python") == 4


@pytest.mark.parametrize(
    ("said", "expected"), [("y\n", "-> time__get_current_time"), ("no\n", "refused"), ("", "refused")]
)
async def test_the_terminal_asks_before_a_tool_runs(clock, said, expected):
    words = ["chat", "--server", clock.grpc, "--approve", "time__*", "What time is it in Rome?"]
    command = [sys.executable, "-m", "narthex.cli.main", *words]
    done = await asyncio.to_thread(subprocess.run, command, input=said, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "run time__get_current_time? [y/N]" in done.stdout and expected in done.stdout
    assert ("refused" in done.stdout) == (said != "y\n")


async def test_an_upstreams_question_reaches_the_caller_who_answers_on_another_connection(server, channel, settled):
    spec = question("asking__form", tool_choice=wire.ToolChoice(name="asking__form"))
    mcp = tool_pb2.McpContext(client_capabilities=b'{"elicitation": {"form": {}}}')
    results = []
    async with asyncio.timeout(60), grpc.aio.insecure_channel(server.grpc) as second:
        stream = GenerationServiceStub(channel).ChatStream(wire.ChatStreamRequest(spec=spec, mcp=mcp))
        async for event in stream:
            if event.tool_activity.HasField("input_required"):
                wish = event.tool_activity.input_required
                (asked,) = wish.requests
                assert asked.mcp.method == "elicitation/create" and b"Who are you?" in asked.mcp.params
                answer = tool_pb2.InputResponse(id=asked.id, result=b'{"action":"accept","content":{"name":"Ann"}}')
                await ToolServiceStub(second).Respond(tool_pb2.RespondRequest(call_id=wish.call_id, responses=[answer]))
            if event.HasField("tool_result"):
                results.append(event.tool_result)
    assert not results[0].result.is_error and '"Ann"' in results[0].text


async def test_a_tool_that_ends_with_its_question_is_made_again_with_the_answer(server, client):
    spec = question("modern__twice", tool_choice=wire.ToolChoice(name="modern__twice"), max_tool_rounds=1)
    mcp = tool_pb2.McpContext(client_capabilities=b'{"elicitation": {"form": {}}}')
    results = []
    async with asyncio.timeout(60):
        async for event in client.chat_stream(spec, mcp=mcp):
            if event.tool_activity.HasField("input_required"):
                wish = event.tool_activity.input_required
                assert not wish.HasField("request_state")
                answer = {"action": "accept", "content": {"name": "Ann"}}
                await client.respond(wish.call_id, {one.id: answer for one in wish.requests})
            if event.HasField("tool_result"):
                results.append(event.tool_result)
    assert '"s1"' in results[0].text and '"Ann"' in results[0].text


async def test_without_a_caller_who_answers_the_tool_is_told(client):
    spec = question("asking__form", tool_choice=wire.ToolChoice(name="asking__form"), max_tool_rounds=1)
    reply = await client.chat(spec)
    assert "does not offer" in reply.messages[1].content[0].text


async def test_budgets_and_repetition_are_typed_on_the_wire(client):
    end = (await client.chat(question(agent=wire.AgentOptions(max_generated_tokens=5)))).finished
    assert (end.finish_reason, end.budget) == (common.FINISH_REASON_BUDGET, common.BUDGET_GENERATED_TOKENS)
    assert end.usage.completion_tokens == 5
    with pytest.raises(NarthexError) as caught:
        await client.chat(question(agent=wire.AgentOptions(max_seconds=-1)))
    assert caught.value.violations[0].field == "agent.max_seconds"


async def test_a_cut_result_is_a_resource_of_its_caller(client, channel):
    spec = question(agent=wire.AgentOptions(results=wire.ResultOptions(max_tokens=64)))
    spec.agent.results.max_bytes = 256
    spec.catalog_tools[:] = ["list_models"]
    spec.tool_choice.name = "list_models"
    spec.max_tool_rounds = 1
    text = (await client.chat(spec)).messages[1].content[0].text
    uri = re.search(r"narthex://results/[\w-]+", text)[0]
    read = await ToolServiceStub(channel).ReadResource(tool_pb2.ReadResourceRequest(uri=uri))
    assert (
        read.contents[0].text.startswith(text.partition("\n[Cut")[0]) and len(text) < len(read.contents[0].text) + 200
    )


async def test_runs_are_counted(client, server):
    before = server.metric("narthex_agent_runs_total", outcome="stop")
    await client.chat(question())
    assert server.metric("narthex_agent_runs_total", outcome="stop") == before + 1
    assert server.metric("narthex_agent_rounds_count") >= 1
    assert server.metric("narthex_agent_tool_calls_sum") >= 1
    assert server.metric("narthex_inputs_waiting") == 0


async def test_a_session_survives_the_death_of_its_server_between_two_rounds(
    launch, demo, asking, tmp_path, upstreams_up
):
    arguments = ("--model", demo, "--mcp-config", str(asking), "--sessions-file", str(tmp_path / "sessions.db"))
    spec = question(session=wire.SessionUse())
    first = launch(*arguments)
    session_id = ""
    async with grpc.aio.insecure_channel(first.grpc) as channel:
        await upstreams_up(channel)
    async with Client(first.grpc) as client:
        with pytest.raises(NarthexError):
            async with aclosing(client.chat_stream(spec)) as events:
                async for event in events:
                    session_id = event.started.session_id or session_id
                    if event.round == 2:
                        first.process.kill()
    second = launch(*arguments)
    async with grpc.aio.insecure_channel(second.grpc) as channel:
        await upstreams_up(channel)
    async with Client(second.grpc) as client:
        (session,) = await client.list_sessions()
        assert session.id == session_id and session.unfinished
        again = question(session=wire.SessionUse(id=session_id, continue_run=True))
        del again.messages[:]
        reply = await client.chat(again)
        held = (await client.get_session(session_id)).messages
        roles = [wire.ROLE_USER, wire.ROLE_ASSISTANT, wire.ROLE_TOOL, wire.ROLE_ASSISTANT]
        assert [message.role for message in held] == roles
        assert "Rome" in reply.messages[-1].content[0].text, held
