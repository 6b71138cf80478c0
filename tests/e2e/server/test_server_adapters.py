"""Adapters of a served model, as a generated stub sees them."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from narthex import Client
from narthex.errors import NarthexError
from narthex.v1.common_pb2 import TokenIds
from narthex.v1.generation_pb2 import AdapterUse, GenerationSpec, ResponseOptions, SamplingOptions, StoppingOptions
from narthex.v1.model_pb2 import CAPABILITY_ADAPTERS

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for name in ("adapter_a", "adapter_b"):
        shutil.copytree(GOLDEN / "lora_llama" / name, folder / name)
    shutil.copytree(GOLDEN / "lora_qwen2" / "adapter_b", folder / "of_qwen2")
    return folder


@pytest.fixture(scope="module")
def server(launch, nothing, adapters):
    return launch(
        "--model", f"llama={GOLDEN / 'llama'}", "--compute", "float32", "--mcp-config", str(nothing),
        "--max-adapters", "3", "--adapter-root", str(adapters), "--adapter", f"a={adapters / 'adapter_a'}",
    )  # fmt: skip


@pytest.fixture
async def client(server):
    async with Client(server.grpc) as opened:
        yield opened


def spec(prompt, *uses):
    return GenerationSpec(
        token_ids=TokenIds(ids=prompt["input_ids"]),
        sampling=SamplingOptions(temperature=0),
        stopping=StoppingOptions(max_tokens=24, ignore_eos=True),
        response=ResponseOptions(token_ids=True),
        adapters=uses,
    )


async def test_one_server_answers_with_the_base_and_each_adapter_at_the_same_time(client, server):
    await client.load_adapter("b", "adapter_b")
    base = json.loads((GOLDEN / "llama" / "golden.json").read_text())["prompts"][:3]
    runs = json.loads((GOLDEN / "lora_llama" / "golden.json").read_text())["runs"]
    asked = [(prompt, ()) for prompt in base]
    asked += [(prompt, (AdapterUse(name=name[-1]),)) for name, prompts in runs.items() for prompt in prompts]
    replies = await asyncio.gather(*(client.generate(spec(prompt, *uses)) for prompt, uses in asked))
    assert [list(reply.token_ids) for reply in replies] == [prompt["greedy_ids"] for prompt, _ in asked]
    listed = {adapter.name: (adapter.model, adapter.rank, adapter.scale) for adapter in await client.list_adapters()}
    assert listed == {"a": ("llama", 4, 2.0), "b": ("llama", 8, 1.5)}
    assert CAPABILITY_ADAPTERS in (await client.list_models())[0].capabilities
    assert server.metric("narthex_adapters_loaded", model_name="llama") == 2
    assert server.metric("narthex_adapted_tokens_total", model_name="llama") == 6 * 24
    await client.unload_adapter("b")
    assert [adapter.name for adapter in await client.list_adapters("llama")] == ["a"]


async def test_what_cannot_be_loaded_says_why(client, adapters, tmp_path):
    (adapters / "outside").symlink_to(tmp_path)
    for name, path, code, reason in (
        ("a", "adapter_b", grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"),
        ("q", "of_qwen2", grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_MISMATCH"),
        ("q", "nowhere", grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        ("q", ".", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MODEL_FILE"),
        ("q", "../elsewhere", grpc.StatusCode.PERMISSION_DENIED, "PATH_OUTSIDE_ROOT"),
        ("q", "outside", grpc.StatusCode.PERMISSION_DENIED, "PATH_OUTSIDE_ROOT"),
        ("q", "nul\0", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("q", "long" * 100, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("a/b", "adapter_b", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ):
        with pytest.raises(NarthexError) as caught:
            await client.load_adapter(name, path)
        assert (caught.value.code, caught.value.reason) == (code, reason), caught.value
        assert str(adapters) not in str(caught.value)
    with pytest.raises(NarthexError, match="no adapter 'x'; loaded are: a") as caught:
        await client.generate(spec({"input_ids": [1, 2]}, AdapterUse(name="x")))
    assert caught.value.code == grpc.StatusCode.NOT_FOUND


async def test_the_native_tools_take_an_adapter(client):
    texts = []
    for options in ({}, {"adapter": "a"}):
        result = await client.call_tool("generate", {"prompt": "Hello", "temperature": 0, "max_tokens": 8, **options})
        texts.append(json.loads(result.structured_content)["text"])
    assert texts[0] != texts[1]
    listed = json.loads((await client.call_tool("list_models")).structured_content)
    assert "a" in listed["models"][0]["adapters"]


def test_the_command_line_loads_lists_uses_and_unloads(server):
    def narthex(*words):
        command = [sys.executable, "-m", "narthex.cli.main", *words, "--server", server.grpc]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    loaded = narthex("adapters", "load", "cli", "adapter_a")
    assert loaded.stdout == "cli\tllama\trank 4\tscale 2\n", loaded.stderr
    assert "cli\tllama\trank 4\tscale 2\n" in narthex("adapters", "list").stdout
    chat = ("chat", "hello", "--no-tools", "--max-tokens", "5")
    assert narthex(*chat, "--adapter", "cli").returncode == 0
    assert narthex("adapters", "unload", "cli").returncode == 0
    refused = narthex(*chat, "--adapter", "cli")
    assert refused.returncode == 1 and "there is no adapter 'cli'" in refused.stderr


async def test_an_xlora_is_served_as_its_model(launch, nothing):
    folder = GOLDEN / "xlora_llama"
    served = launch(
        "--model", f"x={GOLDEN / 'llama'}", "--xlora", f"x={folder / 'xlora'}", "--compute", "float32",
        "--mcp-config", str(nothing),
    )  # fmt: skip
    prompts = json.loads((folder / "golden.json").read_text())["prompts"]
    async with Client(served.grpc) as client:
        replies = await asyncio.gather(*(client.generate(spec(prompt)) for prompt in prompts))
    for reply, prompt in zip(replies, prompts, strict=True):
        wanted = prompt["greedy_ids_nocache"]
        assert list(reply.token_ids)[: len(wanted)] == wanted
