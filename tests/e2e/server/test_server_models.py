"""Models loaded, unloaded and left alone while the server runs, as a generated stub sees them."""

import asyncio
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from narthex import Client
from narthex.errors import NarthexError
from narthex.v1 import tool_pb2
from narthex.v1.embedding_pb2 import EmbedInput, EmbedSpec
from narthex.v1.generation_pb2 import (
    CountTokensRequest,
    GenerateRequest,
    GenerateStreamRequest,
    GenerationSpec,
    SamplingOptions,
    StoppingOptions,
    TokenizeRequest,
)
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.model_pb2 import (
    LOAD_STAGE_BUILD,
    LOAD_STAGE_READ,
    LOAD_STAGE_START,
    MODEL_STATE_FAILED,
    MODEL_STATE_IDLE,
    MODEL_STATE_READY,
    MODEL_STATE_UNLOADING,
    GetModelRequest,
    ListModelsRequest,
    LoadModelRequest,
    UnloadModelRequest,
)
from narthex.v1.model_pb2_grpc import ModelServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub

GOLDEN = Path(__file__).parents[2] / "golden"
DEMO = Path(__file__).parents[3] / "models" / "demo" / "tiny-tool-demo-q8_0.gguf"
ARENA_END = 64 << 20
"""So much free memory glibc may keep at the end of a thread's arena, where malloc_trim does not look."""
SERVICES = ("narthex.v1.GenerationService", "narthex.v1.EmbeddingService")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "demo.gguf").symlink_to(folder / "sub" / "demo.gguf")
    (folder / "sub").mkdir()
    shutil.copy(DEMO, folder / "sub" / "demo.gguf")
    shutil.copytree(GOLDEN / "embed_bert", folder / "bert")
    shutil.copytree(GOLDEN / "lora_llama" / "adapter_a", folder / "adapter_a")
    (folder / "broken.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (folder / "outside").symlink_to(DEMO)
    return folder


@pytest.fixture(scope="module")
def server(launch, nothing, root):
    return launch("--model-root", str(root), "--mcp-config", str(nothing), "--threads", "1")


@pytest.fixture
async def client(server):
    async with Client(server.grpc) as opened:
        yield opened


@pytest.fixture
async def models(channel):
    return ModelServiceStub(channel)


def asking(model: str = "", tokens: int = 4) -> GenerationSpec:
    return GenerationSpec(
        model=model,
        text="Once",
        sampling=SamplingOptions(temperature=0),
        stopping=StoppingOptions(max_tokens=tokens, ignore_eos=True),
    )


async def tools(channel) -> list[str]:
    return [tool.name for tool in (await ToolServiceStub(channel).ListTools(tool_pb2.ListToolsRequest())).tools]


async def serving(channel) -> list[bool]:
    health = health_pb2_grpc.HealthStub(channel)
    asked = [health.Check(health_pb2.HealthCheckRequest(service=name)) for name in SERVICES]
    return [(await reply).status == health_pb2.HealthCheckResponse.SERVING for reply in asked]


async def in_state(models, wanted: int, name: str) -> None:
    async with asyncio.timeout(30):
        while (await models.GetModel(GetModelRequest(name=name))).model.state != wanted:
            pass


async def test_a_server_without_models_becomes_one_with_them_and_back(server, channel, models, client):
    assert await tools(channel) == [] and await serving(channel) == [False, False]
    watch = ToolServiceStub(channel).WatchTools(tool_pb2.WatchToolsRequest())
    version = (await watch.read()).catalog_version

    request = LoadModelRequest(name="text", path="demo.gguf", max_context=128, max_slots=3, compute="float32")
    *progress, last = [event async for event in models.LoadModel(request)]
    stages = list(dict.fromkeys(event.progress.stage for event in progress))
    assert stages == [LOAD_STAGE_READ, LOAD_STAGE_BUILD, LOAD_STAGE_START]
    fractions = [event.progress.fraction for event in progress]
    assert fractions == sorted(fractions) and 0 <= fractions[0] < fractions[-1] <= 1
    model = last.model
    assert (model.name, model.state, model.architecture) == ("text", MODEL_STATE_READY, "llama")
    assert (model.max_context, model.max_slots, model.compute) == (128, 3, "float32") and model.ready_time.seconds

    assert (await watch.read()).catalog_version > version
    assert set(await tools(channel)) == {"chat", "generate", "count_tokens", "list_models"}
    assert await serving(channel) == [True, False]
    assert (await client.generate(asking())).finished.usage.completion_tokens == 4

    assert (await client.load_model("vectors", "bert")).state == MODEL_STATE_READY
    assert "embed" in await tools(channel) and await serving(channel) == [True, True]
    reply = await client.embed(EmbedSpec(inputs=[EmbedInput(text="hello")]))
    assert reply.model == "vectors" and len(reply.embeddings) == 1
    states = {(name, state) for name, state in (("text", "ready"), ("vectors", "ready"))}
    assert all(server.metric("narthex_model_state", model_name=name, state=state) for name, state in states)
    assert server.metric("narthex_model_load_seconds_count", model_name="text") == 1
    assert server.metric("narthex_num_slots", model_name="text") == 3
    assert [pool.name for pool in await client.list_pools()] == ["model/text", "model/vectors"]

    await client.unload_model("vectors")
    assert "embed" not in await tools(channel) and await serving(channel) == [True, False]
    await client.unload_model("text")
    assert await tools(channel) == [] and await serving(channel) == [False, False]
    assert not (await models.ListModels(ListModelsRequest())).models and not await client.list_pools()
    assert not [name for name, _ in server.metrics() if name in ("narthex_num_slots", "narthex_model_state")]
    watch.cancel()


async def test_what_cannot_be_loaded_says_why(client, root, models):
    await client.load_model("taken", "demo.gguf")
    for name, path, options, code, reason in (
        ("taken", "demo.gguf", {}, grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS"),
        ("m", "nowhere", {}, grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        ("m", "broken.gguf", {}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MODEL_FILE"),
        ("m", "adapter_a", {}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MODEL_FILE"),
        ("m", ".", {}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MODEL_FILE"),
        ("m", "../elsewhere", {}, grpc.StatusCode.PERMISSION_DENIED, "PATH_OUTSIDE_ROOT"),
        ("m", "outside", {}, grpc.StatusCode.PERMISSION_DENIED, "PATH_OUTSIDE_ROOT"),
        ("m", "/etc/passwd", {}, grpc.StatusCode.PERMISSION_DENIED, "PATH_OUTSIDE_ROOT"),
        ("m", "nul\0", {}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("m", "long" * 100, {}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("m", "", {}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("a b", "demo.gguf", {}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("m", "demo.gguf", {"compute": "int3"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("m", "demo.gguf", {"max_slots": 5000}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("m", "demo.gguf", {"max_context": 3}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ):
        with pytest.raises(NarthexError) as caught:
            await client.load_model(name, path, **options)
        assert (caught.value.code, caught.value.reason) == (code, reason), caught.value
        assert str(root) not in str(caught.value) and root.name not in str(caught.value)
    assert [model.name for model in await client.list_models()] == ["taken"]
    await client.unload_model("taken")
    with pytest.raises(NarthexError) as caught:
        await client.unload_model("taken")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_a_server_without_a_root_loads_nothing(launch, nothing):
    served = launch("--mcp-config", str(nothing))
    async with Client(served.grpc) as client:
        with pytest.raises(NarthexError, match="--model-root") as caught:
            await client.load_model("m", "demo.gguf")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.PERMISSION_DENIED, "MODEL_ROOT_MISSING")


async def test_a_cancelled_load_leaves_its_name_free(client, models):
    call = models.LoadModel(LoadModelRequest(name="given-up", path="demo.gguf", max_context=64))
    await call.read()
    call.cancel()
    loaded = await client.load_model("given-up", "demo.gguf", max_context=32)
    assert loaded.max_context == 32
    assert [model.name for model in await client.list_models()] == ["given-up"]
    await client.unload_model("given-up")


async def test_unloading_waits_for_running_streams_and_refuses_new_requests(client, channel, models, failure):
    await client.load_model("busy", "demo.gguf", max_context=512)
    stub = GenerationServiceStub(channel)
    stream = stub.GenerateStream(GenerateStreamRequest(spec=asking("busy", 400)))
    await stream.read()
    unloading = models.UnloadModel(UnloadModelRequest(name="busy"))
    await in_state(models, MODEL_STATE_UNLOADING, "busy")
    caught = await failure(stub.Generate(GenerateRequest(spec=asking("busy"))))
    assert (caught.code, caught.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_UNLOADING")
    while (event := await stream.read()) is not grpc.aio.EOF:
        last = event
    assert last.finished.usage.completion_tokens == 400
    await unloading
    caught = await failure(stub.Generate(GenerateRequest(spec=asking("busy"))))
    assert (caught.code, caught.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


def test_the_command_line_loads_lists_and_unloads(server):
    def narthex(*words):
        command = [sys.executable, "-m", "narthex.cli.main", "models", *words, "--server", server.grpc]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    loaded = narthex("load", "cli", "demo.gguf", "--max-context", "64", "--max-slots", "2", "--compute", "float32")
    assert re.fullmatch(r"cli\tready\tllama\t[\d.]+M\tcontext 64\tfloat32\n", loaded.stdout), loaded.stderr
    assert loaded.stdout in narthex("list").stdout
    assert narthex("unload", "cli").returncode == 0
    assert narthex("list").stdout == ""
    refused = narthex("unload", "cli")
    assert refused.returncode == 1 and "there is no model 'cli'" in refused.stderr
    assert narthex("load", "cli", "demo.gguf", "--max-slots", "-1").returncode == 2


@pytest.fixture(scope="module")
def sleepy(launch, nothing, root):
    """A server whose models leave the memory after a moment: one for text with an adapter, one for vectors."""
    llama = root / "llama"
    shutil.copytree(GOLDEN / "llama", llama)
    return launch(
        "--model", f"llama={llama}", "--model", f"bert={root / 'bert'}", "--model", f"demo={DEMO}",
        "--adapter", f"llama/a={root / 'adapter_a'}", "--compute", "float32", "--default-model", "llama",
        "--idle-unload", "0.2", "--mcp-config", str(nothing), "--threads", "1",
    )  # fmt: skip


async def test_idle_models_leave_and_come_back_with_all_they_had(sleepy, root):
    async with grpc.aio.insecure_channel(sleepy.grpc) as channel, Client(sleepy.grpc) as client:
        models, text = ModelServiceStub(channel), GenerationServiceStub(channel)
        before = (await client.list_models())[0]
        for name in ("llama", "bert"):
            await in_state(models, MODEL_STATE_IDLE, name)
        idle = (await client.list_models())[0]
        idle.state = before.state
        assert idle == before  # what needs no weights is still known
        assert (await text.Tokenize(TokenizeRequest(text="hello"))).token_ids
        counted = await text.CountTokens(CountTokensRequest(text="hello", model="llama"))
        assert counted.tokens and counted.max_context == before.max_context
        assert (await client.list_models())[0].state == MODEL_STATE_IDLE

        run = json.loads((GOLDEN / "lora_llama" / "golden.json").read_text())["runs"]
        prompt = next(prompts for name, prompts in run.items() if name.endswith("a"))[0]
        spec = asking(tokens=24)  # no name: the default
        spec.token_ids.ids.extend(prompt["input_ids"])
        spec.adapters.add(name="a")
        spec.response.token_ids = True
        loads = sleepy.metric("narthex_model_load_seconds_count", model_name="llama")
        replies = await asyncio.gather(*(client.generate(spec) for _ in range(4)))
        assert [list(reply.token_ids) for reply in replies] == [prompt["greedy_ids"]] * 4
        assert sleepy.metric("narthex_model_load_seconds_count", model_name="llama") == loads + 1
        vectors = await client.embed(EmbedSpec(inputs=[EmbedInput(text="hello")]))
        assert vectors.model == "bert" and len(vectors.embeddings) == 1

        await in_state(models, MODEL_STATE_IDLE, "llama")
        weights = root / "llama" / "model.safetensors"
        weights.rename(root / "away")
        for reply in await asyncio.gather(*(client.generate(spec) for _ in range(2)), return_exceptions=True):
            assert reply.reason == "INVALID_MODEL_FILE" and str(root) not in reply.message
        failed = (await client.list_models())[0]
        assert failed.state == MODEL_STATE_FAILED and failed.failure and str(root) not in failed.failure
        (root / "away").rename(weights)
        assert list((await client.generate(spec)).token_ids) == prompt["greedy_ids"]


def held(pid: int) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def widen(source: Path, folder: Path) -> int:
    """The model of a golden folder with feed-forward layers of 65,536 and random weights; returns their size."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    narrow, wide = config["intermediate_size"], 1 << 16
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": wide, "dtype": "float32"}))
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    at = 0
    for name, entry in header.items():
        if name != "__metadata__":
            shape = [wide if ".mlp." in name and extent == narrow else extent for extent in entry["shape"]]
            size = 4 * int(np.prod(shape))
            entry |= {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    values = np.random.default_rng(0).normal(0, 0.02, at // 4).astype(np.float32)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + values.tobytes())
    return at


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["llama", "embed_qwen3"])
async def test_unloading_gives_the_memory_back(launch, nothing, root, kind):
    size = widen(GOLDEN / kind, root / f"large_{kind}")
    served = launch("--model-root", str(root), "--mcp-config", str(nothing), "--threads", "1")
    pid = served.process.pid
    async with Client(served.grpc) as client:

        async def once() -> int:
            """Load, use and unload the model; returns what was held meanwhile."""
            await client.load_model("large", f"large_{kind}", max_context=64)
            if kind == "llama":
                await client.generate(asking("large"))
            else:
                await client.embed(EmbedSpec(inputs=[EmbedInput(text="hello")]))
            meanwhile = held(pid)
            await client.unload_model("large")
            return meanwhile

        for _ in range(2):  # which also imports, and makes pools of threads and memory, for good
            await once()
        before, after = held(pid), []
        for _ in range(4):
            assert await once() - before > size / 2
            after.append(held(pid) - before)
        assert min(after) < size / 5
        assert max(after) < ARENA_END + size / 5
