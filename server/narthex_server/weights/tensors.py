"""A weight as it is stored: bytes in a known block format, converted only when somebody asks."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.weights.formats import BlockFormat


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in blocks along its last dimension; `raw` is uint8 [rows, bytes of a row], often a view of a file."""

    name: str
    shape: tuple[int, ...]
    format: BlockFormat
    raw: NDArray[np.uint8]

    def dense(self) -> NDArray[np.float32]:
        """Return the values as float32 in `shape`."""
        return self.format.dense(self.raw).reshape(self.shape)

    def reordered(self, rows: NDArray[np.intp]) -> "StoredTensor":
        """Return the tensor with its rows in another order; blocks lie within rows, so nothing is lost."""
        return replace(self, raw=self.raw[rows])

    @property
    def size(self) -> int:
        return prod(self.shape)


class WeightSource(Protocol):
    """Weights by their Hugging Face names, whatever file they come from."""

    def names(self) -> Iterable[str]: ...

    def find(self, name: str) -> StoredTensor | None:
        """Return the tensor, or None where the file has none of that name."""
        ...
