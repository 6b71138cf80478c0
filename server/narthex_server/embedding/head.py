"""What makes one vector of a text's hidden states: pooling, then dense layers where the model has them."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Pooling(Enum):
    """How the vectors of a text's tokens become one."""

    MEAN = "mean"
    FIRST = "cls"
    LAST = "lasttoken"
    MAX = "max"


def pool(hidden: Floats, pooling: Pooling) -> Floats:
    """One vector [H] of the hidden states [S, H] of a text's tokens."""
    match pooling:
        case Pooling.FIRST:
            return np.asarray(hidden[0])
        case Pooling.LAST:
            return np.asarray(hidden[-1])
        case Pooling.MEAN:
            return np.asarray(hidden.mean(axis=0))
        case Pooling.MAX:
            return np.asarray(hidden.max(axis=0))


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer on vectors: weight [out, in], bias [out] or None, then tanh or nothing."""

    weight: Floats
    bias: Floats | None
    tanh: bool

    def apply(self, x: Floats) -> Floats:
        """From a vector [in] to one [out]."""
        y = self.weight @ x
        if self.bias is not None:
            y += self.bias
        return np.tanh(y) if self.tanh else y


@dataclass(frozen=True, slots=True)
class Head:
    """A model's own pooling, and the dense layers after it."""

    pooling: Pooling
    dense: tuple[Dense, ...] = ()

    def size(self, hidden: int) -> int:
        """How many numbers a vector has."""
        return len(self.dense[-1].weight) if self.dense else hidden

    def finish(self, pooled: Floats) -> Floats:
        """From a pooled vector [H] to that of the model, not scaled."""
        for layer in self.dense:
            pooled = layer.apply(pooled)
        return pooled
