"""Block formats: how bytes become float32, and how they become MatMulNBits weights.

Layouts are those of ggml (`ggml-common.h`): `block` values in `bytes` bytes; F32, F16 and BF16 have blocks of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Packing:
    """How rows of a format become MatMulNBits operands: w = (q - 2^(bits-1)) * scale, plus an offset in some formats.

    Each function takes raw bytes [rows, bytes of one row]. `quants` gives uint8 [rows, columns/block, block*bits/8],
    `scales` and `offsets` float32 [rows, columns/block]; an offset is what is added to every weight of its block.
    """

    bits: int
    block: int
    quants: Callable[[Bytes], Bytes]
    scales: Callable[[Bytes], Floats]
    offsets: Callable[[Bytes], Floats] | None = None

    def dense(self, raw: Bytes) -> Floats:
        """Multiply out, [rows, columns]: dequantising goes the same way as the kernel's weights."""
        quants = self.quants(raw)
        if self.bits == 4:
            quants = np.stack((quants & 15, quants >> 4), axis=-1).reshape(*quants.shape[:-1], self.block)
        values = quants.astype(np.float32)
        values -= float(1 << (self.bits - 1))
        values *= self.scales(raw)[..., None]
        if self.offsets is not None:
            values += self.offsets(raw)[..., None]
        return values.reshape(len(values), -1)


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One stored number format; `ggml_type` is its number in GGUF files."""

    name: str
    ggml_type: int
    block: int
    bytes: int
    dense: Callable[[Bytes], Floats]
    packing: Packing | None = None


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


def _pairs(quants: Bytes) -> Bytes:
    """Four-bit values [..., block], neighbours in one byte, low half first."""
    return quants[..., 0::2] | (quants[..., 1::2] << np.uint8(4))


def _blocks(raw: Bytes, size: int) -> Bytes:
    return raw.reshape(raw.shape[0], -1, size)


def _q8_0(raw: Bytes) -> Bytes:
    return _blocks(raw, 34)[..., 2:] ^ np.uint8(0x80)


def _q4_0(raw: Bytes) -> Bytes:
    return _pairs(_nibbles(_blocks(raw, 18)[..., 2:]))


def _q5_0(raw: Bytes) -> Bytes:
    blocks = _blocks(raw, 22)
    high = np.unpackbits(blocks[..., 2:6], axis=-1, bitorder="little") << 4
    return np.asarray((_nibbles(blocks[..., 6:]) | high) + 112)


def _first_half(size: int) -> Callable[[Bytes], Floats]:
    return lambda raw: _half(_blocks(raw, size), 0)


def _halves_of_32(blocks: Bytes) -> Bytes:
    """128 bytes to [..., 8, 32]: each run of 32 bytes holds the low, then the high halves of two sub-blocks."""
    runs = blocks.reshape(*blocks.shape[:-1], 4, 32)
    return np.stack((runs & 15, runs >> 4), axis=-2).reshape(*blocks.shape[:-1], 8, 32)


def _q4_k(raw: Bytes) -> Bytes:
    return _pairs(_halves_of_32(_blocks(raw, 144)[..., 16:])).reshape(len(raw), -1, 16)


def _q5_k(raw: Bytes) -> Bytes:
    blocks = _blocks(raw, 176)
    high = (blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)
    return ((_halves_of_32(blocks[..., 48:]) | (high << np.uint8(4))) + np.uint8(112)).reshape(len(raw), -1, 32)


def _six_bit_scales(size: int) -> Callable[[Bytes], Floats]:
    """Scales of Q4_K and Q5_K: a float16 times eight 6-bit integers in twelve bytes."""

    def scales(raw: Bytes) -> Floats:
        blocks = _blocks(raw, size)
        low, high = blocks[..., 4:8], blocks[..., 12:16]
        integers = np.concatenate((low & 63, (high & 15) | ((low >> 2) & 48)), axis=-1)
        return (_half(blocks, 0)[..., None] * integers).reshape(len(raw), -1)

    return scales


def _six_bit_offsets(size: int, centre: int) -> Callable[[Bytes], Floats]:
    """w = scale * q - minimum is a product around the centre of q, and an offset: centre * scale - minimum."""
    scales = _six_bit_scales(size)

    def offsets(raw: Bytes) -> Floats:
        blocks = _blocks(raw, size)
        middle, high = blocks[..., 8:12], blocks[..., 12:16]
        integers = np.concatenate((middle & 63, (high >> 4) | ((middle >> 2) & 48)), axis=-1)
        return scales(raw) * centre - (_half(blocks, 2)[..., None] * integers).reshape(len(raw), -1)

    return offsets


def _q6_k(raw: Bytes) -> Bytes:
    blocks = _blocks(raw, 210)
    low = blocks[..., :128].reshape(len(raw), -1, 2, 2, 32)
    low = np.concatenate((low & np.uint8(15), low >> np.uint8(4)), axis=-2)
    high = (
        blocks[..., 128:192].reshape(len(raw), -1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    ) & np.uint8(3)
    return ((low | (high << np.uint8(4))) + np.uint8(96)).reshape(len(raw), -1, 16)


def _q6_k_scales(raw: Bytes) -> Floats:
    blocks = _blocks(raw, 210)
    integers = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return (_half(blocks, 208)[..., None] * integers).reshape(len(raw), -1)


def _quantised(name: str, ggml_type: int, block: int, size: int, packing: Packing) -> BlockFormat:
    return BlockFormat(name, ggml_type, block, size, packing.dense, packing)


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
            _quantised("Q4_0", 2, 32, 18, Packing(4, 32, _q4_0, _first_half(18))),
            _quantised("Q5_0", 6, 32, 22, Packing(8, 32, _q5_0, _first_half(22))),
            _quantised("Q8_0", 8, 32, 34, Packing(8, 32, _q8_0, _first_half(34))),
            _quantised("Q4_K", 12, 256, 144, Packing(4, 32, _q4_k, _six_bit_scales(144), _six_bit_offsets(144, 8))),
            _quantised("Q5_K", 13, 256, 176, Packing(8, 32, _q5_k, _six_bit_scales(176), _six_bit_offsets(176, 16))),
            _quantised("Q6_K", 14, 256, 210, Packing(8, 16, _q6_k, _q6_k_scales)),
        )
    }
)
