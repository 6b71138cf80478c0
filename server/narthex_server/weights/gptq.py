"""GPTQ folders (AutoGPTQ, GPTQModel): 4 and 8 bits, in `checkpoint_format` gptq or gptq_v2.

A matrix [rows, columns] is kept as `qweight` int32 [columns*bits/32, rows], `qzeros` int32 [groups, rows*bits/32],
`scales` [groups, rows] and `g_idx` int32 [columns], the group of each column.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import F32, Bytes
from narthex_server.weights.grouped import Grouped, grouped_format, packed_part, scales_part, unpacked, words
from narthex_server.weights.latest import Latest
from narthex_server.weights.safetensors import I32
from narthex_server.weights.tensors import StoredTensor, WeightSource

METHOD = "gptq"
_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_log = logging.getLogger(__name__)


class GptqWeights:
    """A folder's tensors, each set of GPTQ's parts as the matrix that it stands for."""

    def __init__(self, folder: WeightSource, quantization: Mapping[str, Any]) -> None:
        """Look at every matrix; InvalidModelFile for another width or layout, or parts that do not fit each other."""
        self._folder = folder
        self._latest = Latest()
        bits, layout = quantization.get("bits"), quantization.get("checkpoint_format") or "gptq"
        if bits not in (4, 8) or layout not in ("gptq", "gptq_v2"):
            raise InvalidModelFile(
                f"GPTQ of {bits} bits in format {layout}; supported are 4 and 8 bits in gptq, gptq_v2"
            )
        self._bits = int(bits)
        # The first format keeps zero points less one, of which 0 - 1 wraps around.
        self._shift = 1 if layout == "gptq" else 0
        stems = [name.removesuffix(".qweight") for name in folder.names() if name.endswith(".qweight")]
        self._matrices = {f"{stem}.weight": self._matrix(stem) for stem in stems}
        if scattered := [name for name, tensor in self._matrices.items() if tensor.format is F32]:
            _log.warning(
                "%d matrices become float32, eight times the memory: their groups are scattered over the columns "
                "(desc_act), first %s", len(scattered), scattered[0],
            )  # fmt: skip
        self._parts = {f"{stem}.{part}" for stem in stems for part in _PARTS}

    def names(self) -> Iterable[str]:
        return [*(name for name in self._folder.names() if name not in self._parts), *self._matrices]

    def find(self, name: str) -> StoredTensor | None:
        return self._matrices.get(name) or self._folder.find(name)

    def _matrix(self, stem: str) -> StoredTensor:
        name, per_word = f"{stem}.weight", 32 // self._bits
        qweight, qzeros = packed_part(self._folder, f"{stem}.qweight"), packed_part(self._folder, f"{stem}.qzeros")
        scales = scales_part(self._folder, f"{stem}.scales")
        groups, rows = scales.shape
        columns = qweight.shape[0] * per_word
        if qweight.shape[1:] != (rows,) or qzeros.shape != (groups, rows // per_word) or rows % per_word:
            shapes = ", ".join(f"{part.name} {list(part.shape)}" for part in (qweight, qzeros, scales))
            raise InvalidModelFile(f"parts of a GPTQ matrix do not fit each other: {shapes}")
        symmetric = bool(np.all(self._zeros(qzeros) == 1 << (self._bits - 1)))
        stored = grouped_format(name, self._bits, columns, groups, symmetric)
        order = self._groups_of_columns(stem, columns, groups)
        if order is not None:
            return StoredTensor(name, (rows, columns), F32, lambda: self._scattered(qweight, qzeros, scales, order))

        def make() -> Bytes:
            values = unpacked(words(qweight), self._bits, 0)
            return Grouped(values, self._zeros(qzeros), scales.dense()).blocks(stored)

        return StoredTensor(name, (rows, columns), stored, lambda: self._latest.get(name, make))

    def _groups_of_columns(self, stem: str, columns: int, groups: int) -> NDArray[np.int32] | None:
        """The group of each column where they are not simply one after the other."""
        tensor = self._folder.find(f"{stem}.g_idx")
        if tensor is None:
            return None
        if tensor.format is I32 and tensor.shape == (columns,):
            order = np.ascontiguousarray(tensor.raw).view(np.int32).reshape(-1)
            if ((order >= 0) & (order < groups)).all():
                return None if (order == np.arange(columns) // (columns // groups)).all() else order
        raise InvalidModelFile(f"tensor {tensor.name} does not give each of {columns} columns one of {groups} groups")

    def _zeros(self, qzeros: StoredTensor) -> Bytes:
        zeros = unpacked(words(qzeros), self._bits, 1)
        return np.asarray((zeros + np.uint8(self._shift)) & np.uint8((1 << self._bits) - 1))

    def _scattered(
        self, qweight: StoredTensor, qzeros: StoredTensor, scales: StoredTensor, order: NDArray[np.int32]
    ) -> Bytes:
        values = unpacked(words(qweight), self._bits, 0).astype(np.float32)
        values -= self._zeros(qzeros)[order]
        values *= scales.dense()[order]
        return np.ascontiguousarray(values.T).view(np.uint8)
