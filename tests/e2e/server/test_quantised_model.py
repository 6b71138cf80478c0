"""A server that quantises its model, and one whose model `narthex quantize` wrote: the same greedy answer."""

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from narthex.v1 import generation_pb2, generation_pb2_grpc

MODEL = Path(__file__).parents[2] / "golden" / "qwen3"


async def answer(address: str) -> list[int]:
    """Sixteen greedy tokens."""
    spec = generation_pb2.GenerationSpec(
        model="m",
        text="The quick brown fox",
        sampling=generation_pb2.SamplingOptions(temperature=0),
        stopping=generation_pb2.StoppingOptions(max_tokens=16, ignore_eos=True),
        response=generation_pb2.ResponseOptions(token_ids=True),
    )
    async with grpc.aio.insecure_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        return list((await stub.Generate(generation_pb2.GenerateRequest(spec=spec))).token_ids)


@pytest.fixture
def written(tmp_path) -> Path:
    """The model as `narthex quantize` writes it."""
    words = ["quantize", str(MODEL), str(tmp_path / "out"), "--quantize", "8"]
    subprocess.run([sys.executable, "-m", "narthex.cli.main", *words], check=True, capture_output=True, timeout=60)
    return tmp_path / "out"


async def test_quantising_on_load_and_before_it_answer_the_same(launch, written):
    on_load = launch("--model", f"m={MODEL}", "--quantize", "q8_0")
    before = launch("--model", f"m={written}")
    first, second = await answer(on_load.grpc), await answer(before.grpc)
    assert first == second and len(first) == 16
    assert "quantising: Q8_0:" in on_load.log.read_text()
