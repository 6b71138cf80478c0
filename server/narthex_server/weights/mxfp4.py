"""Folders whose experts are MXFP4, as gpt-oss is published.

The matrices [rows, columns] of all experts are kept as `NAME_blocks` uint8 [experts, rows, columns/32, 16], two
neighbours in one byte with the first one low, and `NAME_scales` uint8 [experts, rows, columns/32], exponents plus 127.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import FORMATS, Bytes
from narthex_server.weights.latest import Latest
from narthex_server.weights.safetensors import U8
from narthex_server.weights.tensors import StoredTensor, WeightSource

METHOD = "mxfp4"
_FORMAT = FORMATS["MXFP4"]
_PARTS = ("_blocks", "_scales")
_MOST_EXPERTS = 4096


class Mxfp4Weights:
    """A folder's tensors; the matrices of `experts.NAME` are `experts.0.NAME.weight` and so on."""

    def __init__(self, folder: WeightSource, quantization: Mapping[str, Any]) -> None:
        """Look at every matrix; InvalidModelFile for parts that do not fit each other."""
        self._folder = folder
        self._latest = Latest()
        stems = [name.removesuffix(_PARTS[0]) for name in folder.names() if name.endswith(_PARTS[0])]
        self._matrices = {tensor.name: tensor for stem in stems for tensor in self._experts(stem)}
        self._parts = {stem + part for stem in stems for part in _PARTS}

    def names(self) -> Iterable[str]:
        return [*(name for name in self._folder.names() if name not in self._parts), *self._matrices]

    def find(self, name: str) -> StoredTensor | None:
        return self._matrices.get(name) or self._folder.find(name)

    def _experts(self, stem: str) -> Iterable[StoredTensor]:
        blocks, scales = (self._folder.find(stem + part) for part in _PARTS)
        if blocks is None or scales is None or blocks.format is not U8 or scales.format is not U8:
            raise InvalidModelFile(f"tensors {stem}_blocks and {stem}_scales are not both there, or not bytes")
        if len(blocks.shape) != 4 or blocks.shape != (*scales.shape, _FORMAT.block // 2) or not blocks.size:
            raise InvalidModelFile(
                f"tensors {stem}_blocks {list(blocks.shape)} and {stem}_scales {list(scales.shape)} do not fit: "
                "needed are [experts, rows, blocks, 16] and [experts, rows, blocks]"
            )
        count, rows, across = scales.shape
        if count > _MOST_EXPERTS:
            raise InvalidModelFile(f"tensor {stem}_blocks has {count} experts; supported are {_MOST_EXPERTS}")
        prefix, _, kind = stem.rpartition(".")
        for index in range(count):
            name = f"{prefix}.{index}.{kind}.weight"
            make = partial(_joined, blocks.part(index), scales.part(index))
            stored = partial(self._latest.get, name, make)
            yield StoredTensor(name, (rows, across * _FORMAT.block), _FORMAT, stored)


def _joined(blocks: StoredTensor, scales: StoredTensor) -> Bytes:
    """The matrix in blocks as GGUF files have them: the scale, then value i and value i + 16 in one byte."""
    pairs = blocks.raw.reshape(blocks.shape)
    values = np.stack((pairs & np.uint8(15), pairs >> np.uint8(4)), axis=-1).reshape(*pairs.shape[:-1], _FORMAT.block)
    low, high = np.split(values, 2, axis=-1)
    joined = np.concatenate((scales.raw.reshape(*scales.shape, 1), low | high << np.uint8(4)), axis=-1)
    return joined.reshape(len(joined), -1)
