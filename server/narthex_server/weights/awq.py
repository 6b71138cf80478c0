"""AWQ folders (AutoAWQ, version gemm): 4 bits.

A matrix [rows, columns] is kept as `qweight` int32 [columns, rows/8], `qzeros` int32 [groups, rows/8] and `scales`
[groups, rows]. The eight values of a word are rows 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import Bytes
from narthex_server.weights.grouped import Grouped, grouped_format, packed_part, scales_part, unpacked, words
from narthex_server.weights.latest import Latest
from narthex_server.weights.tensors import StoredTensor, WeightSource

METHOD = "awq"
_BITS, _PER_WORD = 4, 8
_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Where in a word each row's value is."""


class AwqWeights:
    """A folder's tensors, each set of AWQ's parts as the matrix that it stands for."""

    def __init__(self, folder: WeightSource, quantization: Mapping[str, Any]) -> None:
        """Look at every matrix; InvalidModelFile for another width or layout, or parts that do not fit each other."""
        self._folder = folder
        self._latest = Latest()
        bits, version = quantization.get("bits"), str(quantization.get("version") or "gemm").lower()
        if bits != _BITS or version != "gemm":
            raise InvalidModelFile(f"AWQ of {bits} bits in version {version}; supported are 4 bits in gemm")
        stems = [name.removesuffix(".qweight") for name in folder.names() if name.endswith(".qweight")]
        self._matrices = {f"{stem}.weight": self._matrix(stem) for stem in stems}
        self._parts = {f"{stem}.{part}" for stem in stems for part in ("qweight", "qzeros", "scales")}

    def names(self) -> Iterable[str]:
        return [*(name for name in self._folder.names() if name not in self._parts), *self._matrices]

    def find(self, name: str) -> StoredTensor | None:
        return self._matrices.get(name) or self._folder.find(name)

    def _matrix(self, stem: str) -> StoredTensor:
        name = f"{stem}.weight"
        qweight, qzeros = packed_part(self._folder, f"{stem}.qweight"), packed_part(self._folder, f"{stem}.qzeros")
        scales = scales_part(self._folder, f"{stem}.scales")
        groups, rows = scales.shape
        packed = (rows // _PER_WORD,)
        if rows % _PER_WORD or qweight.shape[1:] != packed or qzeros.shape != (groups, *packed):
            shapes = ", ".join(f"{part.name} {list(part.shape)}" for part in (qweight, qzeros, scales))
            raise InvalidModelFile(f"parts of an AWQ matrix do not fit each other: {shapes}")
        columns = qweight.shape[0]
        symmetric = bool((_rows_in_order(qzeros) == 1 << (_BITS - 1)).all())
        stored = grouped_format(name, _BITS, columns, groups, symmetric)

        def make() -> Bytes:
            return Grouped(_rows_in_order(qweight), _rows_in_order(qzeros), scales.dense()).blocks(stored)

        return StoredTensor(name, (rows, columns), stored, lambda: self._latest.get(name, make))


def _rows_in_order(tensor: StoredTensor) -> Bytes:
    """Values [n, rows] from words [n, rows/8]."""
    values = unpacked(words(tensor), _BITS, 1)
    return values.reshape(len(values), -1, _PER_WORD)[..., _PLACES].reshape(values.shape)
