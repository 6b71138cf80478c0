"""Decoders exported to ONNX: by optimum (`onnx/model*.onnx`), or by onnxruntime-genai (`genai_config.json`)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile
from narthex_server.runtime.foreign.ports import CachePort, Port, Ports
from narthex_server.weights.onnx_file import OnnxFile, Value

GENAI = "genai_config.json"
_PREFERRED = (
    "model.onnx", "decoder_model_merged.onnx", "model_q4.onnx", "model_quantized.onnx", "model_int8.onnx",
    "model_uint8.onnx", "model_bnb4.onnx", "model_fp16.onnx", "model_q4f16.onnx",
)  # fmt: skip
"""Exact ones first, then what a CPU computes fastest: it has no float16 arithmetic to speak of."""

_FLOATS = ("float32", "float16")
_PARTS = {
    "encoder": "an encoder-decoder, as for speech or translation",
    "vision": "for images and text",
    "speech": "for speech and text",
    "embedding": "split into an embedding and a decoder",
}
_OTHER_INPUTS = {
    "encoder_hidden_states": "the decoder of an encoder-decoder, as for speech or translation",
    "inputs_embeds": "a part of a model for images or speech and text: it takes embeddings, not tokens",
    "pixel_values": "for images",
    "input_features": "for speech",
}
_DATA_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "INT8", "int8": "INT8"}


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A decoder graph that can be served; `folder` has its tokenizer, `context` 0 is not declared.

    `quantization` names the format of most weights.
    """

    graph: Path
    folder: Path
    model_type: str
    ports: Ports
    context: int
    eos_ids: frozenset[int]
    parameters: int
    quantization: str


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a config says of a graph; `names` maps patterns of cache inputs to those of outputs, %d being the layer."""

    model_type: str
    context: int
    eos_ids: frozenset[int]
    vocab_size: int | None
    kv_heads: int | None
    head_size: int | None
    inputs: Mapping[str, str]
    logits: str
    names: Mapping[str, str]


def find_graph(path: Path) -> Path | None:
    """The graph that a path means: an .onnx file, or that of a folder; None where there is none.

    InvalidModelFile where a folder has several and none has a name that says which to prefer.
    """
    if path.suffix == ".onnx":
        return path
    if (path / GENAI).is_file():
        decoder = _section(_read_json(path / GENAI), "model", "decoder")
        return _inside(path, str(decoder.get("filename") or "model.onnx"))
    for folder in (path / "onnx", path):
        files = sorted(file.name for file in folder.glob("*.onnx"))
        if chosen := next((name for name in _PREFERRED if name in files), None):
            return folder / chosen
        if len(files) == 1:
            return folder / files[0]
        if files:
            raise InvalidModelFile(
                f"{folder} holds {', '.join(files[:8])}: name one, for example {folder / files[0]}; decoders in two "
                "halves, with and without past, are served merged only (decoder_model_merged.onnx)"
            )
    return None


def read_onnx(graph: Path) -> OnnxModel:
    """Look at a decoder graph and at the configs around it.

    InvalidModelFile says what is broken or missing, or what kind of graph it is instead of a decoder with a cache.
    """
    folder = graph.parent.parent if graph.parent.name == "onnx" else graph.parent
    facts = _genai(folder / GENAI) if (folder / GENAI).is_file() else _huggingface(folder / "config.json")
    if not graph.is_file():
        raise InvalidModelFile(f"{graph}: missing")
    file = OnnxFile(graph)
    ports = _ports(file, facts)
    parameters, quantization = weights_in(file)
    return OnnxModel(
        graph, folder, facts.model_type, ports, facts.context, facts.eos_ids, parameters, quantization
    )  # fmt: skip


def _genai(path: Path) -> _Facts:
    whole = _read_json(path)
    model, decoder = _section(whole, "model"), _section(whole, "model", "decoder")
    kind = str(model.get("type"))
    for part, meaning in _PARTS.items():
        if part in model:
            raise _unsupported(path, f"model type {kind} is {meaning}")
    if "pipeline" in decoder:
        raise _unsupported(path, f"model type {kind} is split into a pipeline of several graphs")
    inputs, outputs = (_strings(path, decoder, side) for side in ("inputs", "outputs"))
    names = {
        pattern: outputs.get(key.replace("past", "present", 1), pattern.replace("past", "present", 1))
        for key, pattern in inputs.items()
        if key.startswith("past") and key.endswith("_names") and "%d" in pattern
    }
    return _Facts(
        kind, _number(path, model, "context_length") or 0, _ids(path, model.get("eos_token_id")),
        _number(path, model, "vocab_size"), _number(path, decoder, "num_key_value_heads"),
        _number(path, decoder, "head_size"), inputs, outputs.get("logits", "logits"), names,
    )  # fmt: skip


def _huggingface(path: Path) -> _Facts:
    config = _read_json(path) if path.is_file() else {}
    heads, width = _number(path, config, "num_attention_heads"), _number(path, config, "hidden_size")
    return _Facts(
        str(config.get("model_type") or "onnx"),
        _number(path, config, "max_position_embeddings") or _number(path, config, "n_positions") or 0,
        _ids(path, config.get("eos_token_id")),
        _number(path, config, "vocab_size"),
        _number(path, config, "num_key_value_heads") or heads,
        _number(path, config, "head_dim") or (width // heads if width and heads else None),
        {}, "logits", {},
    )  # fmt: skip


def _ports(file: OnnxFile, facts: _Facts) -> Ports:
    inputs = {value.name: value for value in file.inputs}
    outputs = {value.name: value for value in file.outputs}
    for name, meaning in _OTHER_INPUTS.items():
        if name in inputs:
            raise _unsupported(file.path, f"the graph is {meaning}")
    tokens, logits = inputs.pop(facts.inputs.get("input_ids", "input_ids"), None), outputs.get(facts.logits)
    if tokens is None or logits is None:
        raise _unsupported(file.path, f"the graph is {'an encoder, as for embeddings' if tokens else 'no decoder'}")
    named = {
        "mask": facts.inputs.get("attention_mask", "attention_mask"),
        "positions": facts.inputs.get("position_ids", "position_ids"),
        "branch": "use_cache_branch",
        "keep": "num_logits_to_keep",
    }
    found = {use: _port(value) for use, name in named.items() if (value := inputs.pop(name, None)) is not None}
    if (positions := found.get("positions")) and positions.rank != 2:
        raise _unsupported(file.path, f"the graph wants positions of {positions.rank} dimensions")
    if not inputs:
        raise _unsupported(file.path, "the graph is without a cache: export it with past key values")
    caches = tuple(_cache(file, value, outputs, facts) for value in inputs.values())
    vocab = logits.shape[-1] if logits.shape and isinstance(logits.shape[-1], int) else facts.vocab_size
    if not vocab or vocab < 0 or len(logits.shape) != 3 or logits.dtype not in _FLOATS:
        raise _unsupported(file.path, f"the graph gives logits of {logits.dtype} {[*logits.shape]}")
    rows = logits.shape[1]
    return Ports(
        _port(tokens), logits.name, logits.dtype, rows if isinstance(rows, int) else None, vocab, caches, **found,
        in_place=any(node.operator == "GroupQueryAttention" for node in file.nodes),
    )  # fmt: skip


def _port(value: Value) -> Port:
    return Port(value.name, value.dtype, len(value.shape))


def _cache(file: OnnxFile, value: Value, outputs: Mapping[str, Value], facts: _Facts) -> CachePort:
    """Pair an input with its output; what is no cache is an input that we do not know."""
    present = next((name for name in _presents(value.name, facts.names) if name in outputs), None)
    if present is None:
        raise _unsupported(file.path, f"the graph wants {value.name}, which is not known")
    if value.dtype not in _FLOATS or outputs[present].dtype != value.dtype:
        raise _unsupported(file.path, f"the cache {value.name} is {value.dtype}; supported are {', '.join(_FLOATS)}")
    shape = value.shape
    if all(isinstance(extent, int) and extent > 0 for extent in shape[1:]) and len(shape) > 1:
        if len(shape) == 4 and value.name.endswith((".key", ".value")):
            raise _unsupported(file.path, f"the cache {value.name} has a fixed length of {shape[2]}")
        return CachePort(value.name, present, value.dtype, ("slots", *shape[1:]))
    if len(shape) != 4 or isinstance(shape[2], int):
        raise _unsupported(file.path, f"the cache {value.name} has the shape {[*shape]}")
    heads = shape[1] if isinstance(shape[1], int) else facts.kv_heads
    size = shape[3] if isinstance(shape[3], int) else facts.head_size
    if not heads or not size or min(heads, size) < 1:
        raise InvalidModelFile(f"{file.path}: neither graph nor config has the heads and head size of {value.name}")
    return CachePort(value.name, present, value.dtype, ("slots", heads, "max_len", size))


def _presents(past: str, names: Mapping[str, str]) -> Iterable[str]:
    """The names that the output of a cache may have, a config's before the customary ones."""
    for pattern, present in names.items():
        prefix, _, suffix = pattern.partition("%d")
        layer = past.removeprefix(prefix).removesuffix(suffix)
        if layer.isdecimal() and past == f"{prefix}{layer}{suffix}":
            yield present.replace("%d", layer)
    yield past.replace("past_key_values", "present", 1)
    yield past.replace("past", "present", 1)


def weights_in(file: OnnxFile) -> tuple[int, str]:
    """Count weights, and name what holds most of them."""
    counts = {name: (_count(tensor.shape), _DATA_TYPES.get(tensor.dtype, "")) for name, tensor in file.tensors.items()}
    for node in file.nodes:
        if node.operator == "MatMulNBits":
            bits, size = node.integers.get("bits", 4), node.integers.get("K", 0) * node.integers.get("N", 0)
            counts |= {name: (0, "") for name in node.inputs[2:]} | {node.inputs[1]: (size, f"INT{bits}")}
        elif node.operator == "GatherBlockQuantized" and counts.get(node.inputs[0], (0, ""))[1] == "INT8":
            bits = node.integers.get("bits", 4)
            counts |= {name: (0, "") for name in node.inputs[1:]}
            counts[node.inputs[0]] = (_count(file.tensors[node.inputs[0]].shape) * 8 // bits, f"INT{bits}")
    sums: dict[str, int] = {}
    for count, kind in counts.values():
        if kind:
            sums[kind] = sums.get(kind, 0) + count
    return sum(sums.values()), max(sums, key=lambda kind: sums[kind], default="none")


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _inside(folder: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidModelFile(f"{folder / GENAI}: the graph {name} lies outside the folder")
    return folder / name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidModelFile(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModelFile(f"{path}: not a JSON object")
    return value


def _section(whole: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    part: Any = whole
    for name in names:
        part = part.get(name) if isinstance(part, dict) else None
    if not isinstance(part, dict):
        raise InvalidModelFile(f"{GENAI}: {'.'.join(names)} is missing")
    return part


def _strings(path: Path, decoder: Mapping[str, Any], side: str) -> dict[str, str]:
    names = decoder.get(side) or {}
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InvalidModelFile(f"{path}: model.decoder.{side} does not map to names")
    return names


def _number(path: Path, config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is not None and (not isinstance(value, int) or not 0 <= value < 1 << 31):
        raise InvalidModelFile(f"{path}: {key} is {value!r}")
    return value


def _ids(path: Path, value: Any) -> frozenset[int]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, int) for item in values):
        raise InvalidModelFile(f"{path}: eos_token_id is {value!r}")
    return frozenset(values)


def _unsupported(path: Path, what: str) -> InvalidModelFile:
    return InvalidModelFile(
        f"{path}: {what}; served are decoders with token ids in and logits and a float cache out",
        reason="UNSUPPORTED_ARCHITECTURE",
    )
