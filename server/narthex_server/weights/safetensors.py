"""Hugging Face weight folders: one `model.safetensors`, or shards named by `model.safetensors.index.json`."""

import json
from collections.abc import Iterable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import BF16, F16, F32
from narthex_server.weights.tensors import StoredTensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LARGEST_HEADER = 1 << 24
_MOST_DIMENSIONS = 8


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
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise InvalidModelFile(f"{index}: not a safetensors index ({error})") from error
    if any(Path(name).name != name for name in names):
        raise InvalidModelFile(f"{index}: a shard lies outside the folder")
    return [folder / name for name in names]


def read_safetensors(path: Path) -> Iterable[StoredTensor]:
    """Map a file and yield its tensors; InvalidModelFile says what does not fit and where."""
    if not path.is_file():
        raise InvalidModelFile(f"{path}: missing")
    size = path.stat().st_size
    if size < 8:
        raise InvalidModelFile(f"{path}: {size} bytes are too few for a safetensors file")
    data = np.memmap(path, np.uint8, "r").view(np.ndarray)
    length = int(data[:8].view("<u8")[0])
    if length > size - 8:
        raise InvalidModelFile(f"{path}: truncated: the header takes {length} bytes, {size - 8} are left")
    if length > _LARGEST_HEADER:
        raise InvalidModelFile(f"{path}: a header of {length} bytes; allowed are {_LARGEST_HEADER}")
    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=_distinct)
        entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        body = data[8 + length :]
        tensors = [_tensor(path, body, name, entry) for name, entry in entries]
        _check_apart(path, sorted((*entry["data_offsets"], name) for name, entry in entries))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
    known = {"F32": F32, "F16": F16, "BF16": BF16}
    if entry["dtype"] not in known:
        kinds = ", ".join(known)
        raise InvalidModelFile(f"{path}: tensor {name} has type {entry['dtype']}; supported are {kinds}")
    kind = known[entry["dtype"]]
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
