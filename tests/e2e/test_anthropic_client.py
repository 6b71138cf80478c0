"""The unmodified `anthropic` package against the whole path: the bridge, the server, its model and a real upstream."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import anthropic
import pytest
from narthex.keys import new_key

from tests.e2e.processes import started

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "demo" / "tiny-tool-demo-q8_0.gguf"
HELLO = {"model": "demo", "max_tokens": 24, "messages": [{"role": "user", "content": "Hello!"}]}
GREEDY = {"temperature": 0}
TIME = {
    "name": "time__get_current_time",
    "description": "Get current time in a specific timezone",
    "input_schema": {
        "type": "object",
        "properties": {"timezone": {"type": "string", "description": "IANA timezone name"}},
        "required": ["timezone"],
    },
}
ASK_TIME = {"model": "demo", "max_tokens": 96, "messages": [{"role": "user", "content": "What time is it in Tokyo?"}]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """URL and key of a bridge that runs in a loop of its own for all tests of this file."""
    folder = tmp_path_factory.mktemp("stack")
    delegate, served = new_key("bridge", delegate=True)
    secret, caller = new_key("ann", "acme")
    (folder / "keys.toml").write_text(served.toml + caller.toml)
    (folder / "delegate").write_text(delegate)
    servers = {"mcpServers": {"time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]}}}
    (folder / "mcp.json").write_text(json.dumps(servers))
    address = "127.0.0.1:0"
    keys = ("--api-key-file", folder / "keys.toml")
    with asyncio.Runner() as runner:
        processes = contextlib.AsyncExitStack()
        server = runner.run(
            processes.enter_async_context(
                started(
                    "narthex_server.main", "--grpc", address, "--metrics", address, "--model", f"demo={MODEL}", *keys,
                    "--mcp-config", folder / "mcp.json", "--threads", 1, "--cache-dir", folder / "cache",
                )
            )
        )  # fmt: skip
        to_server = ("--server", server["grpc"], "--server-key-file", folder / "delegate")
        bridge = runner.run(
            processes.enter_async_context(started("narthex_bridge.main", "--http", address, *to_server, *keys))
        )
        yield f"http://{bridge['http']}", secret
        runner.run(processes.aclose())


@pytest.fixture
def client(stack):
    url, key = stack
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
async def aclient(stack):
    url, key = stack
    async with anthropic.AsyncAnthropic(base_url=url, auth_token=key, api_key=None, max_retries=0) as client:
        yield client


def test_a_message_and_its_stream_are_the_same(client):
    message = client.messages.create(**HELLO, extra_body=GREEDY)
    assert message.role == "assistant" and message.type == "message" and message.model == "demo"
    assert message.content[0].text
    assert message.usage.output_tokens > 0
    with client.messages.stream(**HELLO, extra_body=GREEDY) as stream:
        pieces = list(stream.text_stream)
        whole = stream.get_final_message()
    assert "".join(pieces) == whole.content[0].text == message.content[0].text
    assert (whole.stop_reason, whole.usage.output_tokens) == (message.stop_reason, message.usage.output_tokens)
    prompt = [usage.input_tokens + usage.cache_read_input_tokens for usage in (message.usage, whole.usage)]
    assert prompt[0] == prompt[1] == client.messages.count_tokens(model="demo", messages=HELLO["messages"]).input_tokens


async def test_many_at_once_without_waiting_for_each_other(aclient):
    async def ask():
        async with aclient.messages.stream(**HELLO, extra_body=GREEDY) as stream:
            return await stream.get_final_text()

    first, *others = await asyncio.gather(*(ask() for _ in range(8)))
    assert first and others == [first] * 7


def test_limits_and_stop_sequences(client):
    short = client.messages.create(**HELLO | {"max_tokens": 2}, extra_body=GREEDY)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)
    text = client.messages.create(**HELLO, extra_body=GREEDY).content[0].text
    word = text.split()[1]
    stopped = client.messages.create(**HELLO, stop_sequences=[word], extra_body=GREEDY)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert text.startswith(stopped.content[0].text)


def test_a_tool_is_called_and_its_result_is_read(client):
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    with client.messages.stream(**ASK_TIME, tools=[TIME], tool_choice=choice, extra_body=GREEDY) as stream:
        inputs = [event.partial_json for event in stream if event.type == "input_json"]
        asked = stream.get_final_message()
    assert asked.stop_reason == "tool_use"
    call = next(block for block in asked.content if block.type == "tool_use")
    assert call.name == TIME["name"] and json.loads("".join(inputs)) == call.input and "timezone" in call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"datetime": "2026-01-02T03:04:05+00:00"}'}
    messages = [
        *ASK_TIME["messages"],
        {"role": "assistant", "content": asked.content},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(**ASK_TIME | {"messages": messages}, tools=[TIME], extra_body=GREEDY)
    assert answer.content[0].type == "text" and answer.content[0].text
    assert client.messages.count_tokens(model="demo", messages=messages, tools=[TIME]).input_tokens > 100


def test_the_server_runs_a_forwarded_tool(client):
    options = GREEDY | {"tool_execution": "server", "catalog_tools": ["time__get_current_time"]}
    answer = client.beta.messages.create(**ASK_TIME, extra_body=options)
    call, result = [block for block in answer.content if block.type.startswith("mcp_")][:2]
    assert answer.content[-1].type == "text", "the model speaks again after the result"
    assert (call.type, call.server_name, call.name) == ("mcp_tool_use", "time", "get_current_time")
    assert (result.type, result.tool_use_id) == ("mcp_tool_result", call.id)
    toolset = {"type": "mcp_toolset", "mcp_server_name": "time"}
    server = {"type": "url", "name": "time", "url": "https://time.example/mcp"}
    with client.beta.messages.stream(
        **ASK_TIME, mcp_servers=[server], tools=[toolset], betas=["mcp-client-2025-11-20"], extra_body=GREEDY
    ) as stream:
        assert stream.get_final_message().stop_reason in ("end_turn", "max_tokens")
    again = [
        *ASK_TIME["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": "Thanks!"},
    ]
    assert client.beta.messages.create(**ASK_TIME | {"messages": again}).content


def test_output_fits_a_schema(client):
    config = {"format": {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}}
    answer = client.messages.create(**HELLO, output_config=config, extra_body=GREEDY)
    assert json.loads(answer.content[0].text) in ("yes", "no")


def test_errors_are_the_packages_own(client, stack):
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**HELLO | {"model": "nobody"})
    assert missing.value.type == "not_found_error" and "nobody" in missing.value.message and missing.value.request_id
    with pytest.raises(anthropic.NotFoundError), client.messages.stream(**HELLO | {"model": "nobody"}):
        pass
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    with pytest.raises(anthropic.BadRequestError, match="send text"):
        client.messages.create(**HELLO | {"messages": [{"role": "user", "content": [image]}]})
    with pytest.raises(anthropic.BadRequestError, match="context"):
        client.messages.create(**HELLO | {"messages": [{"role": "user", "content": "word " * 4000}]})
    with anthropic.Anthropic(base_url=stack[0], api_key="nx_wrong", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            stranger.messages.create(**HELLO)
        assert unknown.value.type == "authentication_error"
