"""Block formats: how bytes become float32, and how they become MatMulNBits weights.

Layouts are those of ggml (`ggml-common.h`); a block holds `block` values in `bytes` bytes. F32, F16 and BF16 are blocks of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Packed:
    """MatMulNBits operands: w = (q - centre) * scale, centre = 2^(bits-1), plus `offset` where the format has a minimum.

    `weight` uint8 [rows, columns/block, block*bits/8], `scales` float32 [rows, columns/block], `offset` the same shape or None:
    what is to be added to every weight of the block.
    """

    bits: int
    block: int
    weight: Bytes
    scales: Floats
    offset: Floats | None = None


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One stored number format; `ggml_type` is its number in GGUF files."""

    name: str
    ggml_type: int
    block: int
    bytes: int
    dense: Callable[[Bytes], Floats]
    pack: Callable[[Bytes], Packed] | None = None


def _f32(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float32)


def _f16(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _bf16(raw: Bytes) -> Floats:
    return (np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, as float32 [rows, blocks]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low halves of a run of bytes, then the high halves, along the last axis."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _expand(packed: Packed) -> Floats:
    """What the packed operands stand for, [rows, columns]: dequantising goes the same way as the kernel's weights."""
    quants = packed.weight
    if packed.bits == 4:
        quants = np.stack((quants & 15, quants >> 4), axis=-1).reshape(*quants.shape[:-1], packed.block)
    values = (quants.astype(np.float32) - float(1 << (packed.bits - 1))) * packed.scales[..., None]
    if packed.offset is not None:
        values += packed.offset[..., None]
    return values.reshape(values.shape[0], -1)


def _pairs(quants: Bytes) -> Bytes:
    """Four-bit values [..., block], neighbours in one byte, low half first."""
    return quants[..., 0::2] | (quants[..., 1::2] << 4)


def _blocks(raw: Bytes, size: int) -> Bytes:
    return raw.reshape(raw.shape[0], -1, size)


def _q8_0(raw: Bytes) -> Packed:
    blocks = _blocks(raw, 34)
    return Packed(8, 32, blocks[..., 2:] ^ 0x80, _half(blocks, 0))


def _q4_0(raw: Bytes) -> Packed:
    blocks = _blocks(raw, 18)
    return Packed(4, 32, _pairs(_nibbles(blocks[..., 2:])), _half(blocks, 0))


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """The 32 high bits of a five-bit block, each as 0 or 16."""
    return np.unpackbits(blocks[..., at : at + 4], axis=-1, bitorder="little") << 4


def _q5_0(raw: Bytes) -> Packed:
    blocks = _blocks(raw, 22)
    quants = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks, 2)
    return Packed(8, 32, quants + 112, _half(blocks, 0))


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and eight 6-bit minima that Q4_K and Q5_K keep in twelve bytes."""
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate((low & 63, (high & 15) | ((low >> 2) & 48)), axis=-1)
    minima = np.concatenate((middle & 63, (high >> 4) | ((middle >> 2) & 48)), axis=-1)
    return scales, minima


def _with_minimum(blocks: Bytes, quants: Bytes, bits: int, centre: int) -> Packed:
    """Q4_K and Q5_K: w = scale * q - minimum, as a symmetric product and an offset; quants [rows, blocks, 8, 32]."""
    scales, minima = _six_bit_scales(blocks[..., 4:16])
    scale = _half(blocks, 0)[..., None] * scales
    offset = scale * centre - _half(blocks, 2)[..., None] * minima
    rows = len(blocks)
    weight = _pairs(quants) if bits == 4 else quants + (128 - centre)
    return Packed(bits, 32, weight.reshape(rows, -1, 4 * bits), scale.reshape(rows, -1), offset.reshape(rows, -1))


def _halves_of_32(blocks: Bytes) -> Bytes:
    """128 bytes to [..., 8, 32]: each run of 32 bytes holds the low, then the high halves of two sub-blocks."""
    runs = blocks.reshape(*blocks.shape[:-1], 4, 32)
    return np.stack((runs & 15, runs >> 4), axis=-2).reshape(*blocks.shape[:-1], 8, 32)


def _q4_k(raw: Bytes) -> Packed:
    blocks = _blocks(raw, 144)
    return _with_minimum(blocks, _halves_of_32(blocks[..., 16:]), 4, 8)


def _q5_k(raw: Bytes) -> Packed:
    blocks = _blocks(raw, 176)
    high = (blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return _with_minimum(blocks, _halves_of_32(blocks[..., 48:]) | (high << 4), 8, 16)


def _q6_k(raw: Bytes) -> Packed:
    blocks = _blocks(raw, 210)
    rows = len(blocks)
    low = blocks[..., :128].reshape(rows, -1, 2, 2, 32)
    low = np.concatenate((low & 15, low >> 4), axis=-2)
    high = (blocks[..., 128:192].reshape(rows, -1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    quants = (low | (high << 4)) + 96
    scales = _half(blocks, 208)[..., None] * np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return Packed(8, 16, quants.reshape(rows, -1, 16), scales.reshape(rows, -1))


def _quantised(name: str, ggml_type: int, block: int, size: int, pack: Callable[[Bytes], Packed]) -> BlockFormat:
    return BlockFormat(name, ggml_type, block, size, lambda raw: _expand(pack(raw)), pack)


F32 = BlockFormat("F32", 0, 1, 4, _f32)
F16 = BlockFormat("F16", 1, 1, 2, _f16)
BF16 = BlockFormat("BF16", 30, 1, 2, _bf16)

FORMATS: Mapping[str, BlockFormat] = MappingProxyType(
    {
        known.name: known
        for known in (
            F32,
            F16,
            BF16,
            _quantised("Q4_0", 2, 32, 18, _q4_0),
            _quantised("Q5_0", 6, 32, 22, _q5_0),
            _quantised("Q8_0", 8, 32, 34, _q8_0),
            _quantised("Q4_K", 12, 256, 144, _q4_k),
            _quantised("Q5_K", 13, 256, 176, _q5_k),
            _quantised("Q6_K", 14, 256, 210, _q6_k),
        )
    }
)
