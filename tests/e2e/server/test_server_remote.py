"""A server without models of its own, in front of an OpenAI-style engine that runs the demo model for real."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from narthex import Client
from narthex.errors import NarthexError
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex.v1.embedding_pb2 import EmbedInput, EmbedSpec
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.model_pb2 import CAPABILITY_CHAT, CAPABILITY_EMBED, MODEL_STATE_FAILED, MODEL_STATE_READY

GOLDEN = Path(__file__).parents[2] / "golden"
ENGINE = Path(__file__).parent / "engines" / "openai.py"
KEY = "sk-e2e-secret"
TOOL = "time__get_current_time"


@pytest.fixture(scope="module")
def behind(launch, demo, nothing):
    """The server that the engine asks."""
    models = ("--model", demo, "--model", f"vectors={GOLDEN / 'embed_bert'}", "--max-slots", "1")
    return launch(*models, "--mcp-config", str(nothing))


@pytest.fixture(scope="module")
def engine(behind):
    """The engine's URL."""
    process = subprocess.Popen([sys.executable, str(ENGINE), behind.grpc, KEY], stdout=subprocess.PIPE, text=True)
    port = process.stdout.readline().strip()
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def server(launch, engine, upstreams, unused_port):
    return launch(
        "--model", f"big=openai+{engine}#demo", "--model", f"vectors=openai-embed+{engine}#vectors",
        "--model", f"down=openai+http://127.0.0.1:{unused_port}/v1", "--default-model", "big",
        "--model-key-variable", "big=E2E_KEY", "--model-key-variable", "vectors=E2E_KEY",
        "--mcp-config", str(upstreams),
        env=os.environ | {"E2E_KEY": KEY},
    )  # fmt: skip


@pytest.fixture(scope="module")
def unused_port(unused_tcp_port_factory) -> int:
    return unused_tcp_port_factory()


@pytest.fixture
async def client(server):
    async with Client(server.grpc) as client:
        yield client


@pytest.fixture
async def local(behind):
    async with Client(behind.grpc) as client:
        yield client


def chat(text: str = "Hello!", **fields) -> wire.ChatSpec:
    spec = wire.ChatSpec(messages=[wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text=text)])])
    spec.sampling.temperature = 0
    spec.stopping.max_tokens = 64
    spec.MergeFrom(wire.ChatSpec(**fields))
    return spec


async def test_models_are_listed_as_the_engine_tells_them(client):
    found = {model.name: model for model in await client.list_models()}
    assert [found[name].state for name in ("big", "vectors", "down")] == [
        MODEL_STATE_READY, MODEL_STATE_READY, MODEL_STATE_FAILED,
    ]  # fmt: skip
    assert found["big"].max_context > 0 and found["big"].device == "remote"
    assert CAPABILITY_CHAT in found["big"].capabilities and [*found["vectors"].capabilities] == [CAPABILITY_EMBED]
    assert "cannot be reached" in found["down"].failure and "127.0.0.1" not in found["down"].failure


def test_the_command_line_lists_them_as_remote(server):
    command = [sys.executable, "-m", "narthex.cli.main", "models", "list", "--server", server.grpc]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "big\tready\tremote\tcontext" in listed


async def test_a_chat_is_the_one_of_the_engine_behind(client, local):
    remote, here = await client.chat(chat()), await local.chat(chat(model="demo"))
    assert remote.model == "big" and remote.messages == here.messages
    assert remote.finished.usage.completion_tokens == here.finished.usage.completion_tokens > 0
    assert remote.finished.finish_reason == here.finished.finish_reason
    kinds = [event.WhichOneof("event") async for event in client.chat_stream(chat())]
    assert kinds[0] == "started" and kinds[-1] == "finished" and "text_delta" in kinds


async def test_the_server_runs_the_tools_that_the_remote_model_calls(client, channel, settled):
    spec = chat("What time is it in Tokyo?", tool_execution=wire.TOOL_EXECUTION_SERVER, catalog_tools=[TOOL])
    events = [event async for event in client.chat_stream(spec)]
    kinds = [event.WhichOneof("event") for event in events]
    call = next(event.tool_call for event in events if event.HasField("tool_call"))
    result = next(event.tool_result for event in events if event.HasField("tool_result"))
    assert call.name == result.name == TOOL and result.tool_call_id == call.id
    assert json.loads(call.arguments).keys() == {"timezone"}
    assert kinds.index("tool_call_started") < kinds.index("tool_call") < kinds.index("tool_result")
    assert any(event.round == 2 and event.HasField("text_delta") for event in events), "it goes on with the result"
    assert kinds[-1] == "finished" and kinds.count("started") == 1


async def test_native_tools_reach_it(client):
    asked = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0, "max_tokens": 8}
    answered = json.loads((await client.call_tool("chat", asked)).structured_content)
    assert answered["model"] == "big" and answered["text"] and answered["usage"]["completion_tokens"] > 0
    continued = json.loads((await client.call_tool("generate", {"prompt": "The", "max_tokens": 4})).structured_content)
    assert continued["text"]
    made = json.loads((await client.call_tool("embed", {"input": ["a", "b"]})).structured_content)
    assert made["dimensions"] == len(made["embeddings"][0]) and made["tokens"] > 0
    listed = json.loads((await client.call_tool("list_models")).structured_content)["models"]
    assert [(one["id"], one["kind"], one["remote"], one["default"]) for one in listed] == [
        ("big", "text", True, True), ("vectors", "embedding", True, True), ("down", "text", True, False),
    ]  # fmt: skip


async def test_vectors_are_those_of_the_engine_behind(client, local):
    spec = EmbedSpec(inputs=[EmbedInput(text="one"), EmbedInput(text="another")], model="vectors")
    remote, here = await client.embed(spec), await local.embed(spec)
    for made, known in zip(remote.embeddings, here.embeddings, strict=True):
        assert made.values == pytest.approx(known.values, abs=1e-6)
    assert remote.usage == here.usage


async def test_several_completions_are_as_many(client):
    spec = wire.GenerationSpec(text="The", n=3, sampling=wire.SamplingOptions(seed=1, temperature=2))
    spec.stopping.max_tokens = 16
    reply = await client.generate(spec)
    assert reply.text and [completion.text for completion in reply.further_completions] != [reply.text] * 2


async def test_what_cannot_be_asked_of_it_is_named(channel, failure):
    stub = GenerationServiceStub(channel)
    spec = chat(response=wire.ResponseOptions(token_ids=True, logprobs=1), adapters=[wire.AdapterUse(name="a")])
    caught = await failure(stub.Chat(wire.ChatRequest(spec=spec)))
    assert (caught.code, caught.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REMOTE_MODEL")
    assert caught.fields == ["response.token_ids", "adapters", "response.logprobs"]
    caught = await failure(stub.Tokenize(wire.TokenizeRequest(text="Hi")))
    assert (caught.code, caught.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REMOTE_MODEL")
    spec = chat("word " * 10_000)
    caught = await failure(stub.Chat(wire.ChatRequest(spec=spec)))
    assert caught.code is grpc.StatusCode.INVALID_ARGUMENT and "the remote engine of model 'big'" in caught.text


async def test_one_that_is_down_is_unavailable(channel, failure, server):
    stub = GenerationServiceStub(channel)
    caught = await failure(stub.ChatStream(wire.ChatStreamRequest(spec=chat(model="down"))))
    assert (caught.code, caught.reason) == (grpc.StatusCode.UNAVAILABLE, "REMOTE_UNAVAILABLE")
    assert server.metric("narthex_remote_requests_total", model_name="down", outcome="unavailable") >= 1


async def test_leaving_frees_the_slot_at_the_other_end(client, behind):
    endless = wire.GenerationSpec(text="The", stopping=wire.StoppingOptions(ignore_eos=True))
    events = client.generate_stream(endless)
    assert (await anext(events)).HasField("started")
    assert (await anext(events)).HasField("text_delta")
    await events.aclose()
    reply = await asyncio.wait_for(client.chat(chat()), 20)
    assert reply.finished.finish_reason in (common.FINISH_REASON_STOP, common.FINISH_REASON_LENGTH)
    assert behind.metric("narthex_request_success_total", model_name="demo", finished_reason="cancelled") >= 1


async def test_abort_ends_an_answer_with_what_it_has(channel):
    stub = GenerationServiceStub(channel)
    spec = chat(stopping=wire.StoppingOptions(ignore_eos=True, max_tokens=1000))
    call = stub.ChatStream(wire.ChatStreamRequest(spec=spec), metadata=(("x-request-id", "mine"),))
    events = aiter(call)
    assert (await anext(events)).HasField("started") and (await anext(events)).HasField("text_delta")
    aborted = await stub.Abort(wire.AbortRequest(request_ids=["mine"]))
    assert [*aborted.aborted_request_ids] == ["mine"]
    last = [event async for event in events][-1]
    assert last.finished.finish_reason == common.FINISH_REASON_CANCELLED


async def test_a_deadline_ends_it(channel, failure):
    spec = wire.GenerationSpec(text="The", stopping=wire.StoppingOptions(ignore_eos=True))
    stub = GenerationServiceStub(channel)
    caught = await failure(stub.Generate(wire.GenerateRequest(spec=spec), timeout=0.3))
    assert caught.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_metrics_count_it_like_any_other(client, server):
    await client.chat(chat())
    found = server.metrics()
    big = frozenset({("model_name", "big")})
    assert found["narthex_remote_requests_total", big | {("outcome", "ok")}] >= 1
    assert found["narthex_request_success_total", big | {("finished_reason", "stop")}] >= 1
    assert found["narthex_generation_tokens_total", big] > 0 and found["narthex_num_slots", big] == 64
    assert found["narthex_time_to_first_token_seconds_count", big] >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_server_of_remote_models_alone_never_loads_onnxruntime(client, server):
    await client.chat(chat())
    assert "onnxruntime" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_a_key_that_is_missing_ends_the_start():
    command = [sys.executable, "-m", "narthex_server.main", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    options = ["--model", "big=openai+http://127.0.0.1:1/v1", "--model-key-variable", "big=NO_SUCH_KEY"]
    ended = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and "big=NO_SUCH_KEY: holds no API key" in ended.stderr


async def test_a_key_that_is_refused_is_the_operators_and_is_told_nowhere(launch, engine, nothing, tmp_path):
    key = tmp_path / "key"
    key.write_text("sk-wrong-secret\n")
    served = launch(
        "--model", f"big=openai+{engine}#demo", "--model-key-file", f"big={key}", "--mcp-config", str(nothing),
        "--log-level", "debug",
    )  # fmt: skip
    async with Client(served.grpc) as client:
        with pytest.raises(NarthexError) as caught:
            await client.chat(chat())
        (listed,) = await client.list_models()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REMOTE_REFUSED")
    assert listed.state == MODEL_STATE_FAILED and "credentials" in listed.failure
    assert "sk-wrong" not in f"{caught.value.message}{listed}{served.log.read_text()}"
