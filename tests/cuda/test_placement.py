"""Where ONNX Runtime would compute each node, which needs no GPU to be decided."""

import pytest

pytestmark = pytest.mark.system  # the stub driver needs a C compiler

PLACED = [
    "llama", "llama3_rope_tied", "mistral_swa", "qwen2", "qwen3", "phi3", "phi3_longrope", "gemma", "gemma2", "gemma3",
    "granite", "smollm3", "olmo2", "starcoder2",
    *(f"gguf_llama/tiny-llama-{kind}.gguf" for kind in ("F16", "Q8_0", "Q4_0")),
    "gguf_qwen2_k256/tiny-qwen2-k256-Q4_K_M.gguf", "gguf_qwen3_k256/tiny-qwen3-k256-Q6_K.gguf",
]  # fmt: skip
REFUSED = {
    "lfm2": "states", "lfm2_moe": "states", "qwen3_next": "states", "qwen3_5": "states", "qwen2_moe": "experts",
    "gpt_oss": "sinks", "gpt_oss_mxfp4": "sinks", "mixtral": "expert", "qwen3_moe": "expert",
}  # fmt: skip


@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
def test_every_node_is_on_the_gpu(compute, on_stub):
    placed = on_stub("placement.py", compute, *PLACED)
    assert {model: list(nodes) for model, nodes in placed.items()} == {
        model: ["CUDAExecutionProvider"] for model in PLACED
    }
    for model, nodes in placed.items():
        assert {"PagedAttention", "TopK"} <= set(nodes["CUDAExecutionProvider"]), model


def test_models_that_cannot_be_there_are_refused_with_the_reason(on_stub):
    refused = on_stub("placement.py", "float16", *REFUSED)
    assert [model for model, reason in REFUSED.items() if reason not in refused[model].get("refused", "")] == []
