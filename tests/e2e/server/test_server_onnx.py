"""Generation over gRPC with decoder graphs that others exported."""

import asyncio
import json
from pathlib import Path

import pytest
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import model_pb2, model_pb2_grpc
from narthex.v1.generation_pb2_grpc import GenerationServiceStub

GOLDEN = Path(__file__).parents[2] / "golden-onnx"
MODELS = {
    "optimum": GOLDEN / "onnx_qwen3",
    "blocks": GOLDEN / "onnx_llama" / "onnx" / "model_q4.onnx",
    "merged": GOLDEN / "onnx_llama_merged",
    "genai": GOLDEN / "genai_lfm2_fp32",
}
PROMPTS = {
    name: json.loads((path if path.is_dir() else path.parents[1]).joinpath("golden.json").read_text())["prompts"]
    for name, path in MODELS.items()
}


@pytest.fixture(scope="module")
def server(launch, nothing):
    models = [part for name, path in MODELS.items() for part in ("--model", f"{name}={path}")]
    return launch(*models, "--max-context", "256", "--mcp-config", str(nothing))


@pytest.fixture
def stub(channel):
    return GenerationServiceStub(channel)


def request(model: str, prompt: dict) -> wire.GenerateRequest:
    spec = wire.GenerationSpec(model=model, text=prompt["text"], response=wire.ResponseOptions(token_ids=True))
    spec.sampling.temperature = 0
    spec.stopping.max_tokens = 24
    spec.stopping.ignore_eos = True
    return wire.GenerateRequest(spec=spec)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "blocks"])
async def test_streams_side_by_side_give_the_reference_tokens(stub, model):
    prompts = [prompt for prompt in PROMPTS[model] if prompt["add_special_tokens"]]
    replies = await asyncio.gather(*(stub.Generate(request(model, prompt)) for prompt in prompts * 2))
    for prompt, reply in zip(prompts * 2, replies, strict=True):
        assert list(reply.token_ids) == prompt["greedy_ids"], prompt["name"]


async def test_models_and_the_log_say_how_graphs_are_run(channel, server):
    models = (await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest())).models
    assert {model.name: (model.architecture, model.compute) for model in models} == {
        "optimum": ("qwen3", "onnx, batched"),
        "blocks": ("llama", "onnx, batched"),
        "merged": ("llama", "onnx, one at a time"),
        "genai": ("lfm2", "onnx, batched"),
    }
    log = server.log.read_text()
    assert f"{MODELS['blocks']}: llama" in log and "INT4" in log and "onnx, one at a time" in log


async def test_a_chat_is_answered_by_a_folder_with_a_template(stub):
    message = wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text="Hello!")])
    spec = wire.ChatSpec(model="genai", messages=[message], stopping=wire.StoppingOptions(max_tokens=8))
    events = [event async for event in stub.ChatStream(wire.ChatStreamRequest(spec=spec))]
    assert events[-1].finished.usage.completion_tokens <= 8 and events[-1].finished.usage.prompt_tokens > 4
