"""Matrices in groups of columns with a scale and a zero point each, as GPTQ and AWQ make them.

Their own formats keep such matrices transposed and packed into words in several orders. Here they become blocks along
rows: scale (float32), zero point (one byte), then the values, four-bit ones in pairs with the first one low.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import BF16, F16, F32, BlockFormat, Bytes, Floats, Offsets, Packing
from narthex_server.weights.safetensors import I32
from narthex_server.weights.tensors import StoredTensor, WeightSource

Words = NDArray[np.uint32]
_HEAD = 5
_BLOCKS = (128, 64, 32)
"""What the kernel takes, and what groups are a multiple of; larger groups are several blocks with the same scale."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """w[row, column] = scale * (value - zero): values uint8 [columns, rows], zeros uint8 and scales [groups, rows]."""

    values: Bytes
    zeros: Bytes
    scales: Floats

    def blocks(self, stored: BlockFormat) -> Bytes:
        """The matrix in blocks, uint8 [rows, bytes of a row]."""
        columns, rows = self.values.shape
        count = columns // stored.block
        values = np.ascontiguousarray(self.values.T)
        if stored.bytes - _HEAD < stored.block:
            values = values[:, 0::2] | (values[:, 1::2] << np.uint8(4))
        repeats = count // len(self.scales)
        out = np.empty((rows, count, stored.bytes), np.uint8)
        scales = np.repeat(self.scales.T, repeats, axis=1).astype(np.float32)
        out[..., :4] = np.ascontiguousarray(scales)[..., None].view(np.uint8)
        out[..., 4] = np.repeat(self.zeros.T, repeats, axis=1)
        out[..., _HEAD:] = values.reshape(rows, count, -1)
        return out.reshape(rows, -1)


def grouped_format(name: str, bits: int, columns: int, groups: int, symmetric: bool) -> BlockFormat:
    """The format of a matrix in so many groups; `symmetric` ones have all zero points at the middle, and cost less.

    InvalidModelFile where the groups are not equal multiples of 32.
    """
    size = columns // groups
    block = next((block for block in _BLOCKS if size and size % block == 0), 0)
    if not block or size * groups != columns:
        raise InvalidModelFile(
            f"tensor {name}: {columns} columns in {groups} groups; only multiples of 32 are supported"
        )
    size = _HEAD + block * bits // 8

    def blocks(raw: Bytes) -> Bytes:
        return raw.reshape(len(raw), -1, size)

    def quants(raw: Bytes) -> Bytes:
        return blocks(raw)[..., _HEAD:]

    def scales(raw: Bytes) -> Floats:
        return np.ascontiguousarray(blocks(raw)[..., :4]).view(np.float32)[..., 0]

    def offsets(raw: Bytes) -> Floats:
        return scales(raw) * (np.float32(1 << (bits - 1)) - blocks(raw)[..., 4])

    packing = Packing(bits, block, quants, scales, None if symmetric else Offsets(block, offsets))
    return BlockFormat(f"INT{bits}_G{block}", -1, block, size, packing.dense, packing)


def unpacked(words: Words, bits: int, axis: int) -> Bytes:
    """Split words into values of a few bits along an axis, the lowest first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    parts = (words[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    whole = np.moveaxis(parts.astype(np.uint8), -1, axis + 1)
    shape = list(words.shape)
    shape[axis] *= len(shifts)
    return whole.reshape(shape)


def packed_part(source: WeightSource, name: str) -> StoredTensor:
    """Find a matrix of int32 that values are packed into; InvalidModelFile where there is none of that name."""
    tensor = source.find(name)
    if tensor is None or tensor.format is not I32 or len(tensor.shape) != 2:
        raise InvalidModelFile(f"tensor {name} is missing, or no int32 matrix")
    return tensor


def scales_part(source: WeightSource, name: str) -> StoredTensor:
    """Find a matrix of scales, [groups, rows], at least one each; InvalidModelFile where there is none of that name."""
    tensor = source.find(name)
    if tensor is None or tensor.format not in (F32, F16, BF16) or len(tensor.shape) != 2 or not tensor.size:
        raise InvalidModelFile(f"tensor {name} is missing, or no matrix of scales")
    return tensor


def words(tensor: StoredTensor) -> Words:
    """The 32-bit words of a matrix that values are packed into."""
    return np.ascontiguousarray(tensor.raw).view(np.uint32).reshape(tensor.shape)
