"""A weight as it is stored: bytes in a known block format, converted only when somebody asks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import F32, BlockFormat, Bytes


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in blocks along its last dimension.

    `stored` is its bytes, uint8 [rows, bytes of a row], often a view of a file; or what makes them, called each time
    that they are asked for.
    """

    name: str
    shape: tuple[int, ...]
    format: BlockFormat
    stored: Bytes | Callable[[], Bytes]

    @property
    def raw(self) -> Bytes:
        """The bytes, uint8 [rows, bytes of a row]."""
        return self.stored() if callable(self.stored) else self.stored

    def dense(self) -> NDArray[np.float32]:
        """Return the values as float32 in `shape`."""
        return self.format.dense(self.raw).reshape(self.shape)

    def reordered(self, rows: NDArray[np.intp]) -> "StoredTensor":
        """Return the tensor with its rows in another order; blocks lie within rows, so nothing is lost."""
        return replace(self, stored=lambda: self.raw[rows])

    def part(self, index: int) -> "StoredTensor":
        """Return one slice along the first dimension."""
        rows = len(self.raw) // self.shape[0]
        raw = self.raw[index * rows : (index + 1) * rows]
        return replace(self, name=f"{self.name}.{index}", shape=self.shape[1:], stored=raw)

    def alternate(self, start: int) -> "StoredTensor":
        """Return every other slice along the first dimension, from 0 or 1 on."""
        count = self.shape[0]
        return replace(
            self, name=f"{self.name}.{start}_mod_2", shape=(count // 2, *self.shape[1:]),
            stored=lambda: self.raw.reshape(count, -1)[start::2],
        )  # fmt: skip

    def transposed(self) -> "StoredTensor":
        """Return a matrix with rows and columns exchanged, as float32."""
        return replace(
            self, shape=self.shape[::-1], format=F32, stored=lambda: np.ascontiguousarray(self.dense().T).view(np.uint8)
        )

    def shifted(self, by: float) -> "StoredTensor":
        """Return the tensor with `by` added to every value, as float32."""
        values = np.ascontiguousarray(self.dense() + np.float32(by)).reshape(len(self.raw), -1)
        return replace(self, format=F32, stored=values.view(np.uint8))

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes `raw` has, without making them."""
        return self.size // self.format.block * self.format.bytes


class WeightSource(Protocol):
    """Weights by their Hugging Face names, whatever file they come from."""

    def names(self) -> Iterable[str]: ...

    def find(self, name: str) -> StoredTensor | None:
        """Return the tensor, or None where the file has none of that name."""
        ...


def expected(tensor: StoredTensor | None, name: str, shape: tuple[int, ...]) -> StoredTensor:
    """Return the tensor that was found under this name; InvalidModelFile where there is none, or one of other shape."""
    if tensor is None:
        raise InvalidModelFile(f"tensor {name} is missing")
    if tensor.shape != shape:
        raise InvalidModelFile(f"tensor {name} is {list(tensor.shape)}, the config says {list(shape)}")
    return tensor
