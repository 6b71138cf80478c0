"""Hugging Face weight folders: one `model.safetensors`, or shards named by `model.safetensors.index.json`."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import float8_e4m3fn

from narthex_server.documents import read_object
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import BF16, F16, F32, BlockFormat
from narthex_server.weights.tensors import StoredTensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
U8 = BlockFormat("U8", -1, 1, 1, lambda raw: raw.astype(np.float32))
I32 = BlockFormat("I32", -1, 1, 4, lambda raw: np.ascontiguousarray(raw).view(np.int32).astype(np.float32))
"""Bytes and words into which quantisers pack what `config.json` says."""
F8 = BlockFormat("F8_E4M3", -1, 1, 1, lambda raw: np.ascontiguousarray(raw).view(float8_e4m3fn).astype(np.float32))

_KINDS = {known.name: known for known in (F32, F16, BF16, U8, I32, F8)}
_BUFFERS = frozenset({"I64", "BOOL"})
"""Types of what checkpoints keep beside their weights, such as BERT's position ids; nothing computes with it."""
_LARGEST_HEADER = 1 << 24
_MOST_DIMENSIONS = 8
_MOST_SHARDS = 4096


class SafetensorsFolder:
    """The tensors of a folder, as views of the mapped files."""

    def __init__(self, folder: Path) -> None:
        self._tensors: dict[str, StoredTensor] = {}
        for path in weight_files(folder):
            self._tensors.update((tensor.name, tensor) for tensor in read_safetensors(path))

    def names(self) -> Iterable[str]:
        return self._tensors

    def find(self, name: str) -> StoredTensor | None:
        return self._tensors.get(name)


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a folder, by its index where it has one."""
    index = folder / INDEX
    if not index.is_file():
        return [folder / SINGLE]
    try:
        names = set(read_object(index)["weight_map"].values())
    except (KeyError, AttributeError, TypeError) as error:
        raise InvalidModelFile(f"{index}: not a safetensors index ({error})") from error
    if not 0 < len(names) <= _MOST_SHARDS or not all(isinstance(name, str) for name in names):
        raise InvalidModelFile(f"{index}: weight_map does not name 1 to {_MOST_SHARDS} files")
    if any(Path(name).name != name for name in names):
        raise InvalidModelFile(f"{index}: a shard lies outside the folder")
    return [folder / name for name in sorted(names)]


def read_safetensors(path: Path) -> Iterable[StoredTensor]:
    """Map a file and yield its tensors; InvalidModelFile says what does not fit and where."""
    try:
        if not path.is_file():
            raise InvalidModelFile(f"{path}: missing")
        size = path.stat().st_size
        if size < 8:
            raise InvalidModelFile(f"{path}: {size} bytes are too few for a safetensors file")
        data = np.memmap(path, np.uint8, "r").view(np.ndarray)
    except OSError as error:
        raise InvalidModelFile(f"{path}: cannot be read: {error.strerror}") from error
    length = int(data[:8].view("<u8")[0])
    if length > size - 8:
        raise InvalidModelFile(f"{path}: truncated: the header takes {length} bytes, {size - 8} are left")
    if length > _LARGEST_HEADER:
        raise InvalidModelFile(f"{path}: a header of {length} bytes; allowed are {_LARGEST_HEADER}")
    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=_distinct)
        entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        body = data[8 + length :]
        tensors = [_tensor(path, body, name, entry) for name, entry in entries if entry["dtype"] not in _BUFFERS]
        _check_apart(path, sorted((*entry["data_offsets"], name) for name, entry in entries))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidModelFile(f"{path}: broken safetensors header: {error!r}") from error
    return tensors


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _check_apart(path: Path, spans: list[tuple[int, int, str]]) -> None:
    """Refuse tensors that share bytes."""
    for (_, end, before), (start, _, name) in pairwise(spans):
        if start < end:
            raise InvalidModelFile(f"{path}: tensors {before} and {name} overlap at byte {start}")


def _tensor(path: Path, body: Any, name: str, entry: Any) -> StoredTensor:
    if entry["dtype"] not in _KINDS:
        kinds = ", ".join(_KINDS)
        raise InvalidModelFile(f"{path}: tensor {name} has type {entry['dtype']}; supported are {kinds}")
    kind = _KINDS[entry["dtype"]]
    shape = tuple(int(extent) for extent in entry["shape"])
    start, end = entry["data_offsets"]
    if len(shape) > _MOST_DIMENSIONS or any(extent < 0 for extent in shape):
        raise InvalidModelFile(f"{path}: tensor {name} has the shape {list(shape)[:_MOST_DIMENSIONS]}")
    expected = prod(shape) * kind.bytes
    if not 0 <= start <= end or end - start != expected:
        raise InvalidModelFile(f"{path}: tensor {name} {list(shape)} needs {expected} bytes, not {start} to {end}")
    if end > len(body):
        raise InvalidModelFile(f"{path}: truncated: tensor {name} ends at byte {end} of {len(body)}")
    columns = shape[-1] if shape else 1
    return StoredTensor(name, shape, kind, body[start:end].reshape(-1, max(columns * kind.bytes, 1)))


def write_safetensors(path: Path, tensors: Sequence[StoredTensor]) -> Iterator[StoredTensor]:
    """Write a file, one tensor at a time, and yield each when it is written; rows of blocks are written as U8."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        kind, shape = tensor.format.name, tensor.shape
        if tensor.format.packing is not None:
            kind, shape = U8.name, (shape[0], shape[1] // tensor.format.block * tensor.format.bytes)
        header[tensor.name] = {"dtype": kind, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the values aligned
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(np.ascontiguousarray(tensor.raw).data)
            yield tensor
        file.flush()
        os.fsync(file.fileno())
