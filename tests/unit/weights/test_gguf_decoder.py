import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.gguf_architectures import architecture_of
from narthex_server.weights.gguf_decoder import (
    GgufWeights,
    halves_from_pairs,
    huggingface_config,
    huggingface_name,
    huggingface_type,
)
from narthex_server.weights.gguf_metadata import ArchitectureMetadata
from narthex_server.weights.gguf_model import GgufModel
from narthex_server.weights.tensors import StoredTensor

USUAL = {
    "context_length": 64, "embedding_length": 32, "block_count": 2, "feed_forward_length": 48,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip


def model_of(architecture, tmp_path, fields=(), tensors=()):
    """A model of these metadata (None takes one away) and tensors of float32."""
    keys = {key: value for key, value in {**USUAL, **dict(fields)}.items() if value is not None}
    metadata = {"general.architecture": architecture} | {f"{architecture}.{key}": keys[key] for key in keys}
    stored = {
        name: StoredTensor(name, array.shape, FORMATS["F32"], array.reshape(-1, array.shape[-1]).view(np.uint8))
        for name, array in dict(tensors).items()
    }
    return GgufModel((tmp_path / "model.gguf",), metadata, stored)


@pytest.mark.parametrize(
    ("architecture", "name", "wanted"),
    [
        ("llama", "token_embd.weight", "model.embed_tokens.weight"),
        ("llama", "output.weight", "lm_head.weight"),
        ("qwen2", "blk.11.attn_q.bias", "model.layers.11.self_attn.q_proj.bias"),
        ("llama", "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("llama", "rope_freqs.weight", None),
        ("llama", "blk.0.ffn_gate_inp.weight", None),
        ("gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
        ("phi3", "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"),
        ("lfm2", "blk.3.shortconv.in_proj.weight", "model.layers.3.conv.in_proj.weight"),
        ("lfm2moe", "blk.3.exp_probs_b.bias", "model.layers.3.feed_forward.expert_bias"),
        ("qwen3moe", "blk.0.ffn_up_exps.weight", "model.layers.0.mlp.experts.#.up_proj.weight"),
        ("olmo2", "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight"),
        ("starcoder2", "blk.0.attn_norm.bias", "model.layers.0.input_layernorm.bias"),
        ("unheard-of", "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_names_are_translated(architecture, name, wanted, tmp_path):
    kind = architecture_of(ArchitectureMetadata(model_of(architecture, tmp_path)))
    assert huggingface_name(kind, name) == wanted


@pytest.mark.parametrize(
    ("architecture", "fields", "wanted"),
    [
        ("llama", {}, "llama"),
        ("llama", {"attention.sliding_window": 4096}, "mistral"),
        ("llama", {"expert_count": 8}, "mixtral"),
        ("qwen3moe", {}, "qwen3_moe"),
        ("gemma3", {}, "gemma3_text"),
        ("unheard-of", {}, "unheard-of"),
    ],
)
def test_architectures_have_hugging_faces_names(architecture, fields, wanted, tmp_path):
    assert huggingface_type(model_of(architecture, tmp_path, fields)) == wanted


def test_experts_one_by_one_are_those_of_a_stack(tmp_path):
    stack = np.random.default_rng(0).normal(size=(3, 48, 32)).astype(np.float32)
    fields = {"expert_count": 3, "expert_used_count": 2}
    for tensors in (
        {"blk.1.ffn_gate_exps.weight": stack},
        {f"blk.1.ffn_gate.{index}.weight": stack[index] for index in range(3)},
    ):
        weights = GgufWeights(model_of("llama", tmp_path, fields, tensors))
        for index in range(3):
            found = weights.find(f"model.layers.1.block_sparse_moe.experts.{index}.w1.weight")
            np.testing.assert_array_equal(found.dense(), stack[index])


def test_biases_are_reordered_as_their_rows_are(tmp_path):
    bias = np.arange(32, dtype=np.float32)
    stored = bias.reshape(4, 2, -1).swapaxes(1, 2).reshape(-1).copy()
    weights = GgufWeights(model_of("llama", tmp_path, (), {"blk.0.attn_q.bias": stored}))
    np.testing.assert_array_equal(weights.find("model.layers.0.self_attn.q_proj.bias").dense(), bias)


@pytest.mark.parametrize(("layers", "wanted"), [(26, 8.0), (62, 128 / 4)])
def test_only_the_largest_gemma_divides_scores_by_another_size_than_its_heads(layers, wanted, tmp_path):
    fields = {
        "block_count": layers, "embedding_length": 128, "attention.key_length": 8, "attention.sliding_window": 16,
    }  # fmt: skip
    config = huggingface_config(model_of("gemma3", tmp_path, fields))
    assert config["query_pre_attn_scalar"] == wanted
    assert (config["sliding_window_pattern"], config["rope_local_base_freq"]) == (6, 10_000)


def test_shared_experts_and_dense_layers_are_found(tmp_path):
    fields = {
        "expert_count": 2, "expert_used_count": 1, "expert_feed_forward_length": 8,
        "expert_shared_feed_forward_length": 16,
    }  # fmt: skip
    tensors = {
        "blk.1.ffn_gate_inp.weight": np.ones((2, 32), np.float32),
        "blk.1.ffn_gate_inp_shexp.weight": np.ones(32, np.float32),
    }
    model = model_of("qwen2moe", tmp_path, fields, tensors)
    config = huggingface_config(model)
    assert (config["mlp_only_layers"], config["norm_topk_prob"]) == ([0], False)
    assert (config["moe_intermediate_size"], config["shared_expert_intermediate_size"]) == (8, 16)
    assert GgufWeights(model).find("model.layers.1.mlp.shared_expert_gate.weight").shape == (1, 32)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"block_count": None}, "llama.block_count is missing"),
        ({"attention.head_count": True}, "llama.attention.head_count is True, not a whole number"),
        ({"attention.head_count_kv": True}, "head_count_kv is True, not a whole number"),
        ({"block_count": "two"}, "llama.block_count is 'two', not a whole number"),
        ({"block_count": 1 << 31}, "llama.block_count is 2147483648, not between 1 and 4096"),
        ({"block_count": 0}, "llama.block_count is 0"),
        ({"embedding_length": [1, 2]}, r"llama.embedding_length is \[1, 2\], not a whole number"),
        ({"embedding_length": -1}, "llama.embedding_length is -1"),
        ({"attention.head_count": 0}, "0 heads"),
        ({"attention.head_count_kv": [1, 2, 3]}, r"head_count_kv is \[1, 2, 3\], not a whole number or 2 of them"),
        ({"attention.head_count_kv": ["x", "y"]}, "head_count_kv"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "epsilon is nan, not a number"),
        ({"rope.freq_base": "fast"}, "rope.freq_base is 'fast', not a number"),
        ({"rope.scaling.type": 3}, "rope.scaling.type is 3, not a text"),
        ({"context_length": "x" * 1_000_000}, "context_length is 'xxxx"),
    ],
)
def test_values_of_the_wrong_type_are_named(fields, complaint, tmp_path):
    with pytest.raises(InvalidModelFile, match=complaint) as caught:
        huggingface_config(model_of("llama", tmp_path, fields))
    assert len(caught.value.message) < 400


def test_a_file_without_an_architecture_is_refused(tmp_path):
    for metadata in ({}, {"general.architecture": 7}):
        with pytest.raises(InvalidModelFile, match=r"general\.architecture is"):
            huggingface_type(GgufModel((tmp_path,), metadata, {}))


def test_the_order_of_rows_undoes_the_converters_permutation():
    rows, heads = 24, 3
    original = np.arange(rows)
    permuted = original.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)  # as llama.cpp's converter does
    np.testing.assert_array_equal(permuted[halves_from_pairs(rows, heads)], original)
