"""Every family as a GGUF file, written from its Hugging Face folder by the conventions of llama.cpp's converter."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from narthex_server.loading import LoadOptions, load
from narthex_server.weights.gguf_decoder import GgufWeights, huggingface_config, huggingface_type
from narthex_server.weights.gguf_model import open_gguf
from narthex_server.weights.safetensors import SafetensorsFolder
from numpy.typing import NDArray

ARCHITECTURES = {
    "llama": "llama", "llama3_rope_tied": "llama", "mistral_swa": "llama", "mixtral": "llama", "qwen2": "qwen2",
    "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "phi3": "phi3", "phi3_longrope": "phi3", "gemma2": "gemma2",
    "gemma3": "gemma3", "granite": "granite", "smollm3": "smollm3", "lfm2": "lfm2",
    "gemma": "gemma", "olmo2": "olmo2", "starcoder2": "starcoder2", "qwen2_moe": "qwen2moe", "lfm2_moe": "lfm2moe",
    "gpt_oss": "gpt-oss",
}  # fmt: skip
PAIRED = ("llama", "granite", "smollm3")
Tensors = Iterator[tuple[str, NDArray[np.float32]]]
Config = Mapping[str, Any]


def converted(name: str, array: NDArray[np.float32], architecture: str, config: Config) -> NDArray[np.float32]:
    """The values as a file has them."""
    if architecture in PAIRED and (match := re.search(r"\.(q|k)_proj\.", name)):
        heads = config["num_attention_heads" if match[1] == "q" else "num_key_value_heads"]
        return array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + 1
    if name.endswith("shared_expert_gate.weight"):
        return array.squeeze(0)
    return array.squeeze(1) if name.endswith("conv.conv.weight") else array


def stacked(folder: Path, architecture: str, config: Config) -> Tensors:
    """All tensors, the experts of a layer as one."""
    source = SafetensorsFolder(folder)
    experts: dict[str, dict[int, NDArray[np.float32]]] = {}
    for name in source.names():
        array = source.find(name).dense()
        if match := re.fullmatch(r"model\.layers\.(\d+)\.\w+\.experts\.(\d+)\.(w\d|\w+_proj)\.weight", name):
            block = "feed_forward.experts" if match[3].startswith("w") else "model.layers.#.mlp.experts"
            joined = f"{block}.{match[3]}.weight".replace("#", match[1])
            joined = joined if joined.startswith("model") else f"layers.{match[1]}.{joined}"
            experts.setdefault(joined, {})[int(match[2])] = array
        elif match := re.fullmatch(r"(model\.layers\.\d+\.mlp\.experts)\.(\w+_proj)(_bias)?", name):
            yield from separate(*match.groups(), array)
        elif name.endswith("sinks"):
            yield f"{name}.weight", array
        else:
            named = f"{name}.bias" if name.endswith(".expert_bias") else name
            yield named, converted(name, array, architecture, config)
    for name, parts in experts.items():
        yield name, np.stack([parts[index] for index in range(len(parts))])


def separate(prefix: str, projection: str, bias: str | None, array: NDArray[np.float32]) -> Tensors:
    """gpt-oss: matrices are transposed in the folder, and rows of gate and up take turns."""
    what, rows = ("bias", array) if bias else ("weight", array.swapaxes(1, 2))
    if projection == "gate_up_proj":
        yield f"{prefix}.gate_proj.{what}", rows[:, 0::2]
        yield f"{prefix}.up_proj.{what}", rows[:, 1::2]
    else:
        yield f"{prefix}.{projection}.{what}", rows


def rope_factors(config: Config) -> Tensors:
    rope = config["rope_parameters"]
    if rope.get("rope_type") == "longrope":
        yield "rope_factors_long.weight", np.array(rope["long_factor"], np.float32)
        yield "rope_factors_short.weight", np.array(rope["short_factor"], np.float32)
    if rope.get("rope_type") == "llama3":
        original, factor = rope["original_max_position_embeddings"], rope["factor"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        size = config["head_dim"]
        wavelengths = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size)
        smooth = (original / wavelengths - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors = np.where(wavelengths < original / high, 1, np.where(wavelengths > original / low, factor, between))
        yield "rope_freqs.weight", factors.astype(np.float32)


def write_metadata(writer: gguf.GGUFWriter, architecture: str, config: Config, feed_forward: int) -> None:
    """The keys that the converter writes, for the options that these models have."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or hidden // heads
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    key_heads = config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    kinds = config.get("layer_types") or []
    writer.add_head_count_kv([0 if kind == "conv" else key_heads for kind in kinds] if "conv" in kinds else key_heads)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if "norm_epsilon" in config:
        writer.add_layer_norm_eps(config["norm_epsilon"])
    else:
        writer.add_layer_norm_rms_eps(config.get("rms_norm_eps") or config["norm_eps"])
    if config.get("head_dim") and architecture != "phi3":
        writer.add_key_length(head_dim)
    if config.get("sliding_window") and architecture != "qwen2":
        writer.add_sliding_window(config["sliding_window"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if "original_max_position_embeddings" in config:
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    if experts := config.get("num_local_experts") or config.get("num_experts"):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if width := config.get("moe_intermediate_size") or (architecture == "gpt-oss" and config["intermediate_size"]):
        writer.add_expert_feed_forward_length(width)
    if width := config.get("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(width)
    if scale := config.get("routed_scaling_factor"):
        writer.add_expert_weights_scale(scale)
    if dense := config.get("num_dense_layers"):
        writer.add_leading_dense_block_count(dense)
    if architecture in ("gemma2", "gemma3"):
        # The converter has no key for this; files of the published sizes need none.
        writer.add_attention_scale(config["query_pre_attn_scalar"] ** -0.5)
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"] or 0.0)
        writer.add_final_logit_softcapping(config["final_logit_softcapping"] or 0.0)
        if pattern := config.get("sliding_window_pattern"):
            writer.add_uint32("gemma3.attention.sliding_window_pattern", pattern)
    if architecture == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if architecture.startswith("lfm2"):
        writer.add_shortconv_l_cache(config["conv_L_cache"])


def write_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    """Letters, and tokens that nothing becomes: the prompts are given as ids."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([chr(33 + index) if index < 94 else f"[PAD{index}]" for index in range(size)])
    writer.add_token_merges([])


@pytest.fixture(scope="module")
def as_gguf(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a golden folder as a GGUF file of float32."""

    def write(name: str) -> Path:
        folder, architecture = golden_dir / name, ARCHITECTURES[name]
        config = json.loads((folder / "config.json").read_text())
        path = tmp_path_factory.mktemp(name) / "model.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
        layers = config["num_hidden_layers"]
        names, usual = (gguf.get_tensor_name_map(arch, layers) for arch in (kind, gguf.MODEL_ARCH.LLAMA))
        tensors = dict(stacked(folder, architecture, config))
        widths = [
            array.shape[0] for tensor, array in tensors.items() if tensor.endswith(".w1.weight") and array.ndim == 2
        ]
        write_metadata(writer, architecture, config, widths[0] if widths else config["intermediate_size"])
        write_tokenizer(writer, config["vocab_size"])
        for tensor, array in tensors.items():
            suffixes = (".weight", ".bias")
            writer.add_tensor(names.get_name(tensor, suffixes) or usual.get_name(tensor, suffixes), array)
        for tensor, array in rope_factors(config):
            writer.add_tensor(tensor, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "gpt_oss"])
def test_tensors_have_the_names_and_values_of_the_folder(name: str, as_gguf: Callable, golden_dir: Path) -> None:
    model = open_gguf(as_gguf(name))
    weights, folder = GgufWeights(model), SafetensorsFolder(golden_dir / name)
    assert set(weights.names()) == set(folder.names())
    for tensor in folder.names():
        found, wanted = weights.find(tensor), folder.find(tensor)
        assert found.name == tensor
        assert found.shape == wanted.shape, tensor
        assert len(found.raw) == int(np.prod(found.shape[:-1])), tensor
        np.testing.assert_allclose(found.dense(), wanted.dense(), rtol=0, atol=3e-7, err_msg=tensor)
    config = json.loads((golden_dir / name / "config.json").read_text())
    assert huggingface_type(model) == config["model_type"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_configs_say_what_the_folder_says(name: str, as_gguf: Callable, golden_dir: Path) -> None:
    found = huggingface_config(open_gguf(as_gguf(name)))
    config = json.loads((golden_dir / name / "config.json").read_text())
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    spelled_otherwise = {"rope_parameters", "intermediate_size", "layer_types", "max_window_layers", "no_rope_layers"}
    absent = {"block_auto_adjust_ff_dim", "use_sliding_window", "original_max_position_embeddings"}
    for field in found.keys() & config.keys() - spelled_otherwise - absent:
        if isinstance(found[field], float):
            assert found[field] == pytest.approx(config[field] or 0.0, rel=1e-6), field
        else:
            assert (found[field] or None) == (config[field] or None), field
    if name == "lfm2":
        assert found["layer_types"] == config["layer_types"]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "gpt_oss"])
def test_logits_are_those_of_the_folder(name: str, as_gguf: Callable, prompts_of: Callable, tmp_path: Path) -> None:
    session = load(
        as_gguf(name), LoadOptions("float32", threads=2, slots=1, max_context=256, cache_dir=tmp_path)
    ).session
    for prompt in prompts_of(name):
        logits = session.prefill(0, prompt.ids, 0, np.arange(prompt.start, len(prompt.ids)), len(prompt.ids))
        np.testing.assert_allclose(logits, prompt.logits, rtol=0, atol=1e-3, err_msg=prompt.name)
    session.close()


def test_gpt_oss_is_the_folders_model_with_the_clamp_of_the_published_ones(
    as_gguf: Callable, golden_dir: Path, prompts_of: Callable, tmp_path: Path
) -> None:
    """Its files keep gate and up apart, and cannot say what the gates are clamped to."""
    folder = tmp_path / "folder"
    shutil.copytree(golden_dir / "gpt_oss", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"swiglu_limit": 7.0}))
    options = LoadOptions("float32", threads=2, slots=1, max_context=256, cache_dir=tmp_path / "graphs")
    sessions = [load(path, options).session for path in (folder, as_gguf("gpt_oss"))]
    for prompt in prompts_of("gpt_oss"):
        length = len(prompt.ids)
        wanted, found = (one.prefill(0, prompt.ids, 0, np.arange(length), length) for one in sessions)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3, err_msg=prompt.name)
    for one in sessions:
        one.close()
