"""Folders of float8 (e4m3) with a scale for each tile of a matrix, as DeepSeek and Qwen publish them."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import F32, Bytes
from narthex_server.weights.safetensors import F8
from narthex_server.weights.tensors import StoredTensor, WeightSource

METHOD = "fp8"
_SCALE = "_scale_inv"
_log = logging.getLogger(__name__)


class Float8Weights:
    """A folder's tensors, matrices of float8 multiplied out to float32, for which there are products."""

    def __init__(self, folder: WeightSource, quantization: Mapping[str, Any]) -> None:
        """Look at every matrix; InvalidModelFile for another way of scaling, or scales that do not fit."""
        tile = quantization.get("weight_block_size")
        if not (isinstance(tile, list) and len(tile) == 2 and all(isinstance(side, int) and side > 0 for side in tile)):
            raise InvalidModelFile(f"float8 weights with weight_block_size {tile!r}; supported are scales of tiles")
        self._folder = folder
        names = [name for name in folder.names() if not name.endswith(_SCALE)]
        packed = [found for name in names if (found := folder.find(name)) and found.format is F8]
        self._matrices = {
            tensor.name: _multiplied_out(tensor, folder.find(tensor.name + _SCALE), tile) for tensor in packed
        }
        self._names = names
        if packed:
            _log.warning(
                "%d matrices become float32, four times the memory: there are no products with float8 here; "
                "--quantize makes them small again", len(packed),
            )  # fmt: skip

    def names(self) -> Iterable[str]:
        return self._names

    def find(self, name: str) -> StoredTensor | None:
        return self._matrices.get(name) or self._folder.find(name)


def _multiplied_out(tensor: StoredTensor, scales: StoredTensor | None, tile: list[int]) -> StoredTensor:
    if scales is None or len(tensor.shape) != 2:
        raise InvalidModelFile(f"tensor {tensor.name} is float8 without a matrix of scales, {tensor.name}{_SCALE}")
    expected = tuple(-(-extent // side) for extent, side in zip(tensor.shape, tile, strict=True))
    if scales.shape != expected or scales.format.block != 1:
        raise InvalidModelFile(f"tensor {scales.name} is {list(scales.shape)}; tiles of {tile} need {list(expected)}")

    def make() -> Bytes:
        rows, columns = tensor.shape
        values = tensor.dense()
        factors = np.repeat(scales.dense(), tile[1], axis=1)[:, :columns]
        values *= np.repeat(factors, tile[0], axis=0)[:rows]
        return values.view(np.uint8)

    return StoredTensor(tensor.name, tensor.shape, F32, make)
