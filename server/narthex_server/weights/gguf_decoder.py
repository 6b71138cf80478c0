"""A GGUF file seen as a Hugging Face model: config fields and tensor names of the one, values of the other."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.gguf_model import GgufModel
from narthex_server.weights.tensors import StoredTensor

_MODEL_NAMES: Mapping[str, str] = MappingProxyType(
    {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
)
_LAYER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_ROPE_FACTORS = "rope_freqs.weight"
_PAIRWISE = frozenset({"llama", "mistral"})
"""Architectures whose files keep the rows of Q and K in the order that rotates neighbours, not halves."""


class GgufWeights:
    """The tensors of a file under their Hugging Face names, rows of Q and K in Hugging Face's order."""

    def __init__(self, file: GgufModel, config: Mapping[str, Any]) -> None:
        self._tensors: dict[str, StoredTensor] = {}
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        for tensor in file.tensors.values():
            name = huggingface_name(tensor.name)
            if name is None:
                continue
            projection = name.split(".")[-2]
            if file.metadata["general.architecture"] in _PAIRWISE and projection in heads:
                tensor = tensor.reordered(halves_from_pairs(len(tensor.raw), int(heads[projection])))
            self._tensors[name] = replace(tensor, name=name)

    def names(self) -> Iterable[str]:
        return self._tensors

    def find(self, name: str) -> StoredTensor | None:
        return self._tensors.get(name)


def huggingface_name(name: str) -> str | None:
    """Translate `blk.0.attn_q.weight` to `model.layers.0.self_attn.q_proj.weight`; None where there is no such name."""
    if (match := _LAYER.fullmatch(name)) is not None:
        inner = _LAYER_NAMES.get(match[2])
        return inner and f"model.layers.{match[1]}.{inner}.{match[3]}"
    stem, _, kind = name.rpartition(".")
    outer = _MODEL_NAMES.get(stem)
    return outer and f"{outer}.{kind}"


def halves_from_pairs(rows: int, heads: int) -> NDArray[np.intp]:
    """Order the rows of every head as all first members of its rotated pairs, then all second ones."""
    if heads <= 0 or rows % (2 * heads):
        raise InvalidModelFile(f"{rows} rows do not make {heads} heads of an even size")
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def huggingface_config(file: GgufModel) -> dict[str, Any]:
    """Write the metadata as a Hugging Face config. `rope_freqs.weight` becomes rope type `factors`."""
    try:
        return _config(file)
    except KeyError as error:
        raise InvalidModelFile(f"{file.path}: metadata {error.args[0]} is missing") from error
    except (TypeError, ValueError) as error:
        raise InvalidModelFile(f"{file.path}: metadata: {error}") from error


def _config(file: GgufModel) -> dict[str, Any]:
    metadata = file.metadata
    architecture = str(metadata["general.architecture"])

    def get(key: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{key}", default)

    def need(key: str) -> int:
        return int(metadata[f"{architecture}.{key}"])

    if get("expert_count"):
        raise InvalidModelFile(f"{file.path}: mixtures of experts are not supported", reason="UNSUPPORTED_ARCHITECTURE")
    hidden, heads = need("embedding_length"), need("attention.head_count")
    window = get("attention.sliding_window")
    table = file.tensors.get("token_embd.weight")
    return {
        "model_type": "mistral" if architecture == "llama" and window else architecture,
        "hidden_size": hidden,
        "intermediate_size": need("feed_forward_length"),
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(get("attention.head_count_kv", heads)),
        "head_dim": int(get("attention.key_length") or get("rope.dimension_count") or hidden // heads),
        "rms_norm_eps": float(metadata[f"{architecture}.attention.layer_norm_rms_epsilon"]),
        "max_position_embeddings": need("context_length"),
        "vocab_size": table.shape[0] if table is not None else int(get("vocab_size", 0)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "sliding_window": int(window) if window else None,
        "use_sliding_window": bool(window),
        "max_window_layers": 0,
        "rope_parameters": _rope(file, get),
    }


def _rope(file: GgufModel, get: Any) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_theta": float(get("rope.freq_base", 10000.0)), "rope_type": "default"}
    if (factors := file.tensors.get(_ROPE_FACTORS)) is not None:
        return rope | {"rope_type": "factors", "factors": factors.dense().tolist()}
    kind = str(get("rope.scaling.type", "none"))
    if kind == "none":
        return rope
    rope |= {"rope_type": kind, "factor": float(get("rope.scaling.factor", 1.0))}
    if (original := get("rope.scaling.original_context_length")) is not None:
        rope["original_max_position_embeddings"] = int(original)
    return rope
