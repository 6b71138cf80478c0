"""A GGUF file seen as a Hugging Face model: config fields and tensor names of the one, values of the other."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import F32
from narthex_server.weights.gguf_architectures import BARE, Architecture, architecture_of
from narthex_server.weights.gguf_metadata import ArchitectureMetadata
from narthex_server.weights.gguf_model import GgufModel
from narthex_server.weights.tensors import StoredTensor

_LAYER = re.compile(r"blk\.(\d+)\.([\w.]+?)(?:\.(\d+))?\.(weight|bias)")
_ROPE_FACTORS, _LONG_FACTORS, _SHORT_FACTORS = (
    f"{name}.weight" for name in ("rope_freqs", "rope_factors_long", "rope_factors_short")
)


def huggingface_type(model: GgufModel) -> str:
    """The model type that Hugging Face has for the file's architecture; another architecture's own name."""
    return architecture_of(ArchitectureMetadata(model)).model_type


class GgufWeights:
    """The tensors of a model under their Hugging Face names, with values and order of rows as Hugging Face has them."""

    def __init__(self, model: GgufModel) -> None:
        metadata = ArchitectureMetadata(model)
        kind = architecture_of(metadata)
        paired = {}
        if kind.pairs:
            paired = {"q_proj": metadata.integer("attention.head_count"), "k_proj": max(metadata.key_heads())}
        self._tensors: dict[str, StoredTensor] = {}
        for stored in model.tensors.values():
            for tensor in _renamed(kind, stored):
                projection = tensor.name.split(".")[-2]
                if projection in paired:
                    tensor = _unpaired(tensor, paired[projection])
                elif kind.centred_norms and projection.endswith("norm"):
                    tensor = _uncentred(tensor)
                self._tensors[tensor.name] = tensor

    def names(self) -> Iterable[str]:
        return self._tensors

    def find(self, name: str) -> StoredTensor | None:
        return self._tensors.get(name)


def huggingface_name(kind: Architecture, name: str) -> str | None:
    """Translate `blk.0.attn_q.weight` to `model.layers.0.self_attn.q_proj.weight`; None where there is no such name.

    The experts of a layer are one tensor, whose name has `#` for the number of one.
    """
    if (match := _LAYER.fullmatch(name)) is not None:
        layer, part, expert, what = match.groups()
        inner = kind.layer.get(part if expert is None else f"{part}_exps")
        if inner is None:
            return None
        if inner.endswith(BARE):
            return f"model.layers.{layer}.{inner}"
        return f"model.layers.{layer}.{inner}.{what}".replace("#", expert or "#")
    stem, _, what = name.rpartition(".")
    outer = kind.outer.get(stem)
    return outer and f"{outer}.{what}"


def _renamed(kind: Architecture, tensor: StoredTensor) -> Iterator[StoredTensor]:
    """The tensor under Hugging Face's name and in its shape; stacked experts one by one."""
    name = huggingface_name(kind, tensor.name)
    if name is None:
        return
    if "#" in name:
        rows = prod(tensor.shape[1:-1])
        for index in range(tensor.shape[0]):
            raw = tensor.raw[index * rows : (index + 1) * rows]
            yield StoredTensor(name.replace("#", str(index)), tensor.shape[1:], tensor.format, raw)
    elif name.endswith("conv.conv.weight"):
        yield replace(tensor, name=name, shape=(tensor.shape[0], 1, tensor.shape[-1]))
    elif name.endswith("shared_expert_gate.weight"):
        yield replace(tensor, name=name, shape=(1, tensor.shape[-1]))
    else:
        yield replace(tensor, name=name)


def _unpaired(tensor: StoredTensor, heads: int) -> StoredTensor:
    """Rows of a projection, or elements of its bias, in the order that rotates halves."""
    order = halves_from_pairs(tensor.shape[0], heads)
    if len(tensor.shape) > 1:
        return tensor.reordered(order)
    raw = tensor.raw.reshape(tensor.shape[0], -1)[order].reshape(1, -1)
    return StoredTensor(tensor.name, tensor.shape, tensor.format, raw)


def _uncentred(tensor: StoredTensor) -> StoredTensor:
    values = tensor.dense().reshape(len(tensor.raw), -1) - np.float32(1)
    return StoredTensor(tensor.name, tensor.shape, F32, values.view(np.uint8))


def halves_from_pairs(rows: int, heads: int) -> NDArray[np.intp]:
    """Order the rows of every head as all first members of its rotated pairs, then all second ones."""
    if heads <= 0 or rows % (2 * heads):
        raise InvalidModelFile(f"{rows} rows do not make {heads} heads of an even size")
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def huggingface_config(model: GgufModel) -> dict[str, Any]:
    """Write the metadata as a Hugging Face config. `rope_freqs.weight` becomes rope type `factors`."""
    metadata = ArchitectureMetadata(model)
    kind = architecture_of(metadata)
    hidden, heads = metadata.integer("embedding_length"), metadata.integer("attention.head_count")
    if heads == 0 or hidden == 0:
        raise InvalidModelFile(f"{model.path}: metadata: {heads} heads of {hidden} columns")
    table = model.tensors.get("token_embd.weight")
    rotated = metadata.integer("rope.dimension_count", 0)
    # Only Phi rotates a part of its heads; the oldest files of others say how large heads are in this key alone.
    partial = kind.model_type == "phi3"
    head_dim = metadata.integer("attention.key_length", 0) or (0 if partial else rotated) or hidden // heads
    rope = _rope(metadata)
    if partial and rotated:
        rope["partial_rotary_factor"] = rotated / head_dim
    epsilon = metadata.number("attention.layer_norm_rms_epsilon", metadata.number("attention.layer_norm_epsilon", 1e-5))
    return {
        "model_type": kind.model_type,
        "hidden_size": hidden,
        "intermediate_size": metadata.integer("feed_forward_length"),
        "num_hidden_layers": metadata.layers(),
        "num_attention_heads": heads,
        "num_key_value_heads": max(metadata.key_heads()),
        "head_dim": head_dim,
        "rms_norm_eps": epsilon,
        "max_position_embeddings": metadata.integer("context_length"),
        "vocab_size": table.shape[0] if table is not None else metadata.integer("vocab_size", 0),
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "rope_parameters": rope,
        **kind.fields(metadata),
    }


def _rope(metadata: ArchitectureMetadata) -> dict[str, Any]:
    tensors = metadata.model.tensors
    rope: dict[str, Any] = {"rope_theta": metadata.number("rope.freq_base", 10_000.0), "rope_type": "default"}
    if (factors := tensors.get(_ROPE_FACTORS)) is not None:
        return rope | {"rope_type": "factors", "factors": factors.dense().tolist()}
    if (long := tensors.get(_LONG_FACTORS)) is not None and (short := tensors.get(_SHORT_FACTORS)) is not None:
        rope |= {
            "rope_type": "longrope", "long_factor": long.dense().tolist(), "short_factor": short.dense().tolist(),
        }  # fmt: skip
        if metadata.has("rope.scaling.attn_factor"):
            rope["attention_factor"] = metadata.number("rope.scaling.attn_factor")
    elif (kind := metadata.text("rope.scaling.type", "none")) not in ("none", "longrope"):
        rope |= {"rope_type": kind, "factor": metadata.number("rope.scaling.factor", 1.0)}
    if metadata.architecture == "gpt-oss":
        rope["truncate"] = False  # files do not say it, but these models are made so
    if metadata.has("rope.scaling.original_context_length"):
        rope["original_max_position_embeddings"] = metadata.integer("rope.scaling.original_context_length")
    return rope
