"""Folders that keep quantised weights: blocks as bytes in safetensors files, their formats in `config.json`.

`quantization_config` is `{"quant_method": "narthex", "version": 1, "formats": {tensor name: format name}}`; tensors
that are not in it are ordinary ones. A block tensor has the shape [rows, bytes of a row].
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.safetensors import INDEX, SINGLE, U8, write_safetensors
from narthex_server.weights.tensors import StoredTensor, WeightSource

METHOD = "narthex"
_VERSION = 1
SHARD_BYTES = 4 << 30


class PackedWeights:
    """A folder's tensors, those that its config names as the blocks that they hold."""

    def __init__(self, folder: WeightSource, quantization: Mapping[str, Any]) -> None:
        """Check every tensor; InvalidModelFile says what does not fit."""
        if (version := quantization.get("version")) != _VERSION:
            raise InvalidModelFile(f"quantization_config has version {version!r}; supported is {_VERSION}")
        formats = quantization.get("formats")
        if not isinstance(formats, Mapping):
            raise InvalidModelFile("quantization_config has no formats")
        self._folder = folder
        self._blocks = {name: _blocks(folder.find(name), name, kind) for name, kind in formats.items()}

    def names(self) -> Iterable[str]:
        return self._folder.names()

    def find(self, name: str) -> StoredTensor | None:
        return self._blocks.get(name) or self._folder.find(name)


def _blocks(tensor: StoredTensor | None, name: str, kind: Any) -> StoredTensor:
    stored = FORMATS.get(kind) if isinstance(kind, str) else None
    if stored is None or stored.packing is None:
        raise InvalidModelFile(f"quantization_config: {name} has format {kind!r}, which is not known")
    if tensor is None:
        raise InvalidModelFile(f"quantization_config names the tensor {name}, which is missing")
    if tensor.format is not U8 or len(tensor.shape) != 2 or tensor.shape[1] % stored.bytes:
        shape = f"{tensor.format.name} {list(tensor.shape)}"
        raise InvalidModelFile(f"tensor {name} is {shape}, no rows of {kind} blocks, which have {stored.bytes} bytes")
    rows, row_bytes = tensor.shape
    return StoredTensor(name, (rows, row_bytes // stored.bytes * stored.block), stored, tensor.stored)


def write_weights(folder: Path, weights: WeightSource, shard_bytes: int = SHARD_BYTES) -> Iterator[StoredTensor]:
    """Write all tensors into files of at most `shard_bytes`, or one tensor; yields each when it is written."""
    shards = _shards(weights, shard_bytes)
    if len(shards) == 1:
        yield from write_safetensors(folder / SINGLE, shards[0])
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        places |= {tensor.name: file for tensor in shard}
        yield from write_safetensors(folder / file, shard)
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def quantization_config(weights: WeightSource) -> dict[str, Any]:
    """Describe the weights for the folder's `config.json`."""
    found = filter(None, map(weights.find, weights.names()))
    formats = {tensor.name: tensor.format.name for tensor in found if tensor.format.packing is not None}
    return {"quant_method": METHOD, "version": _VERSION, "formats": formats}


def _shards(weights: WeightSource, limit: int) -> list[list[StoredTensor]]:
    shards: list[list[StoredTensor]] = [[]]
    size = 0
    tensors = filter(None, map(weights.find, weights.names()))
    # Larger elements first, so that each lies at a multiple of its size in the file.
    for tensor in sorted(tensors, key=lambda tensor: -tensor.format.bytes if tensor.format.block == 1 else 0):
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards
