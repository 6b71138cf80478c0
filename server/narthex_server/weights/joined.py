"""Matrices below each other, as one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from narthex_server.weights.latest import Latest
from narthex_server.weights.tensors import StoredTensor


class Joiner:
    """Joins matrices [rows, columns], or vectors [rows], of one format; reads them when their bytes are asked for."""

    def __init__(self) -> None:
        self._latest = Latest()

    def join(self, parts: Sequence[StoredTensor]) -> StoredTensor | None:
        """Return the matrix of all their rows; None where they are stored in different formats."""
        first = parts[0]
        if any(part.format is not first.format for part in parts):
            return None
        axis = 0 if len(first.shape) > 1 else 1  # a vector is one row of bytes
        name = ",".join(part.name for part in parts)
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        return replace(
            first, name=name, shape=shape,
            stored=lambda: self._latest.get(name, lambda: np.concatenate([part.raw for part in parts], axis=axis)),
        )  # fmt: skip
