"""Files of llama.cpp from before GGUF (`.bin`; magics ggml, ggmf and ggjt), which hold Llama models only.

After the magic, a version (except in ggml files) and seven numbers come the vocabulary and then the tensors, each
after its own small header; in ggjt files their values begin at multiples of 32. Source: llama.cpp's llama.cpp of
June 2023.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.gguf_decoder import halves_from_pairs
from narthex_server.weights.tensors import StoredTensor

_GGML, _GGMF, _GGJT = b"lmgg", b"fmgg", b"tjgg"  # the magics are little-endian numbers
_VERSIONS = {_GGMF: (1,), _GGJT: (1, 2, 3)}
_LATEST = 3
_MOST_TOKENS, _MOST_LAYERS, _MOST_TENSORS, _LONGEST_NAME, _LONGEST_TOKEN = 1 << 20, 4096, 1 << 16, 256, 1 << 16
_ALIGNMENT = 32
_BY_NUMBER = {known.ggml_type: known for known in FORMATS.values() if known.name not in ("BF16", "F64", "MXFP4")}
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "tok_embeddings": "model.embed_tokens",
        "norm": "model.norm",
        "output": "lm_head",
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "attention_norm": "input_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
        "ffn_norm": "post_attention_layernorm",
    }
)
_NAME = re.compile(r"(?:layers\.(\d+)\.)?([\w.]+)\.weight")


@dataclass(frozen=True, slots=True)
class Unsaid:
    """What these files do not say, with the values that llama.cpp took for them."""

    rms_norm_eps: float = 5e-6
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 2048


@dataclass(frozen=True, slots=True)
class GgmlModel:
    """A file seen as a Hugging Face model: its config, and its tensors by their names there."""

    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    def names(self) -> Iterable[str]:
        return self.tensors

    def find(self, name: str) -> StoredTensor | None:
        return self.tensors.get(name)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The seven numbers of a file."""

    vocab: int
    hidden: int
    multiple: int
    heads: int
    layers: int
    rotated: int
    file_type: int


def is_ggml(path: Path) -> bool:
    """Whether a file starts as these files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in (_GGML, _GGMF, _GGJT)


def open_ggml(path: Path, unsaid: Unsaid = Unsaid()) -> GgmlModel:
    """Map and read a file. Errors: InvalidModelFile, with the byte at which it is broken.

    How many heads share their keys and how wide the feed-forward is follows from the shapes of the tensors.
    """
    reader = _Reader(path)
    numbers = reader.numbers()
    reader.skip_vocabulary(numbers.vocab)
    stored = reader.tensors()
    head_dim = numbers.hidden // numbers.heads
    key, gate = (_matrix(path, stored, f"layers.0.{name}.weight") for name in ("attention.wk", "feed_forward.w1"))
    key_heads = key.shape[0] // head_dim
    paired = {"q_proj": numbers.heads, "k_proj": key_heads}
    config = {
        "model_type": "llama",
        "hidden_size": numbers.hidden,
        "intermediate_size": gate.shape[0],
        "num_hidden_layers": numbers.layers,
        "num_attention_heads": numbers.heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_dim,
        "rms_norm_eps": unsaid.rms_norm_eps,
        "max_position_embeddings": unsaid.max_position_embeddings,
        "vocab_size": numbers.vocab,
        "tie_word_embeddings": "output.weight" not in stored,
        "rope_parameters": {"rope_type": "default", "rope_theta": unsaid.rope_theta},
    }
    return GgmlModel(config, dict(_translated(stored, paired)))


def _matrix(path: Path, stored: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    if (tensor := stored.get(name)) is None or len(tensor.shape) != 2:
        raise InvalidModelFile(f"{path}: the matrix {name} is missing")
    return tensor


def _translated(stored: Mapping[str, StoredTensor], paired: Mapping[str, int]) -> Iterator[tuple[str, StoredTensor]]:
    for name, tensor in stored.items():
        match = _NAME.fullmatch(name)
        known = _NAMES.get(match[2]) if match else None
        if match is None or known is None:
            continue
        known = f"{known}.weight" if match[1] is None else f"model.layers.{match[1]}.{known}.weight"
        if (heads := paired.get(known.split(".")[-2])) is not None:
            tensor = tensor.reordered(halves_from_pairs(len(tensor.raw), heads))
        yield known, replace(tensor, name=known)


class _Reader:
    """Reads a mapped file from its start."""

    def __init__(self, path: Path) -> None:
        if not path.is_file() or path.stat().st_size < 4:
            raise InvalidModelFile(f"{path}: not a GGML file")
        self._path = path
        self._data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r").view(np.ndarray)
        self._buffer = self._data.data
        self._at = 4
        magic = bytes(self._buffer[:4])
        if magic not in (_GGML, *_VERSIONS):
            raise InvalidModelFile(f"{path}: not a GGML file: it starts with {magic!r}")
        (self._version,) = self._read("I") if magic in _VERSIONS else (0,)
        if self._version not in _VERSIONS.get(magic, (0,)):
            raise InvalidModelFile(f"{path}: {magic[::-1].decode()} version {self._version} is not known")
        self._aligned = magic == _GGJT
        self._scored = magic != _GGML
        self._label = f"{magic[::-1].decode()} version {self._version}"

    def numbers(self) -> _Numbers:
        numbers = _Numbers(*self._read("7i"))
        heads, hidden = numbers.heads, numbers.hidden
        if not (0 < numbers.vocab <= _MOST_TOKENS and 0 < numbers.layers <= _MOST_LAYERS and 0 < heads <= hidden):
            raise InvalidModelFile(
                f"{self._path}: {numbers.vocab} tokens, {numbers.layers} layers, {heads} heads, {hidden} columns"
            )
        if hidden % heads:
            raise InvalidModelFile(f"{self._path}: {heads} heads do not divide {hidden} columns")
        if numbers.rotated != hidden // heads:
            raise InvalidModelFile(
                f"{self._path}: {numbers.rotated} of the {hidden // heads} columns of a head rotate; supported are all"
            )
        return numbers

    def skip_vocabulary(self, tokens: int) -> None:
        """The text comes from elsewhere: the file does not say how it was cut."""
        for _ in range(tokens):
            (size,) = self._read("I")
            if size > _LONGEST_TOKEN:
                raise InvalidModelFile(f"{self._path}: a token of {size} bytes before byte {self._at}")
            self._skip(size + 4 * self._scored)

    def tensors(self) -> dict[str, StoredTensor]:
        tensors: dict[str, StoredTensor] = {}
        while self._at < len(self._data):
            tensor = self._tensor()
            if tensor.name in tensors or len(tensors) >= _MOST_TENSORS:
                raise InvalidModelFile(f"{self._path}: tensor {tensor.name} occurs twice, or is one too many")
            tensors[tensor.name] = tensor
        return tensors

    def _tensor(self) -> StoredTensor:
        extents, length, kind = self._read("3I")
        if not 1 <= extents <= 2 or length > _LONGEST_NAME:
            raise InvalidModelFile(
                f"{self._path}: a tensor of {extents} dimensions and a name of {length} bytes before byte {self._at}"
            )
        shape = tuple(self._read(f"{extents}I"))[::-1]
        name = bytes(self._buffer[self._skip(length) : self._at]).decode("utf-8", "replace")
        known = _BY_NUMBER.get(kind)
        if known is None:
            raise InvalidModelFile(f"{self._path}: tensor {name} has type {kind}", reason="UNSUPPORTED_TENSOR_TYPE")
        if known.packing is not None and self._version < _LATEST:
            raise InvalidModelFile(
                f"{self._path}: {self._label} keeps {known.name} in an older layout; quantise the model anew, or to "
                f"F16, which all versions have alike",
                reason="UNSUPPORTED_TENSOR_TYPE",
            )
        if 0 in shape or shape[-1] % known.block:
            raise InvalidModelFile(f"{self._path}: tensor {name} {list(shape)} in blocks of {known.block}")
        row = shape[-1] // known.block * known.bytes
        if self._aligned:
            self._skip(-self._at % _ALIGNMENT)
        start = self._skip(prod(shape[:-1]) * row)
        return StoredTensor(name, shape, known, self._data[start : self._at].reshape(-1, row))

    def _read(self, code: str) -> tuple[int, ...]:
        layout = struct.Struct("<" + code)
        return layout.unpack_from(self._buffer, self._skip(layout.size))

    def _skip(self, size: int) -> int:
        """Move past `size` bytes and return where they start."""
        at, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise InvalidModelFile(
                f"{self._path}: truncated: {size} bytes wanted at byte {at}, the file has {len(self._data)}"
            )
        return at
