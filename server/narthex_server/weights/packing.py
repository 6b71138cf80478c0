"""What a stored number format is: its bytes, its values, and its form as MatMulNBits operands."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Offsets:
    """What is added to every weight of a block: `values` takes raw bytes and gives float32 [rows, columns/block]."""

    block: int
    values: Callable[[Bytes], Floats]


@dataclass(frozen=True, slots=True)
class Packing:
    """How rows of a format become MatMulNBits operands: w = (q - 2^(bits-1)) * scale, plus an offset in some formats.

    Each function takes raw bytes [rows, bytes of one row]. `quants` gives uint8 [rows, columns/block, block*bits/8],
    `scales` float32 [rows, columns/block].
    """

    bits: int
    block: int
    quants: Callable[[Bytes], Bytes]
    scales: Callable[[Bytes], Floats]
    offsets: Offsets | None = None

    def dense(self, raw: Bytes) -> Floats:
        """Multiply out, [rows, columns]: dequantising goes the same way as the kernel's weights."""
        quants = self.quants(raw)
        if self.bits == 4:
            quants = np.stack((quants & 15, quants >> 4), axis=-1).reshape(*quants.shape[:-1], self.block)
        values = quants.astype(np.float32)
        values -= float(1 << (self.bits - 1))
        values *= self.scales(raw)[..., None]
        if self.offsets is not None:
            values = values.reshape(len(raw), -1, self.offsets.block)
            values += self.offsets.values(raw)[..., None]
        return values.reshape(len(raw), -1)


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One stored number format: `block` values in `bytes` bytes; `ggml_type` is its number in GGUF files."""

    name: str
    ggml_type: int
    block: int
    bytes: int
    dense: Callable[[Bytes], Floats]
    packing: Packing | None = None


def packed_format(name: str, ggml_type: int, block: int, size: int, packing: Packing) -> BlockFormat:
    """A format whose values are defined by its packing."""
    return BlockFormat(name, ggml_type, block, size, packing.dense, packing)
