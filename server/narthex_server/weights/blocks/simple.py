"""Blocks of 32 values under one scale."""

from collections.abc import Callable, Sequence

import numpy as np

from narthex_server.weights.blocks.layout import half, nibbles, pairs, split
from narthex_server.weights.packing import Bytes, Floats, Offsets, Packing, packed_format


def _scale(size: int) -> Callable[[Bytes], Floats]:
    return lambda raw: half(split(raw, size), 0)


def _offset(size: int, centre: int) -> Offsets:
    """w = scale * q + minimum is a product around the centre of q, and an offset: centre * scale + minimum."""

    def values(raw: Bytes) -> Floats:
        blocks = split(raw, size)
        return half(blocks, 0) * centre + half(blocks, 2)

    return Offsets(32, values)


def _four_bits(size: int, at: int) -> Callable[[Bytes], Bytes]:
    return lambda raw: pairs(nibbles(split(raw, size)[..., at:]))


def _five_bits(size: int, at: int) -> Callable[[Bytes], Bytes]:
    """The fifth bits lie in four bytes at `at`, before the low four."""

    def quants(raw: Bytes) -> Bytes:
        blocks = split(raw, size)
        high = np.unpackbits(blocks[..., at : at + 4], axis=-1, bitorder="little") << 4
        return np.asarray((nibbles(blocks[..., at + 4 :]) | high) + 112)

    return quants


def _q8_0(raw: Bytes) -> Bytes:
    return split(raw, 34)[..., 2:] ^ np.uint8(0x80)


def code_book(values: Sequence[int]) -> Bytes:
    """Sixteen int8 values as MatMulNBits stores them, with 128 for zero."""
    return (np.array(values) + 128).astype(np.uint8)


IQ4_VALUES = code_book((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113))
_E2M1_DOUBLED = code_book((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12))


def _looked_up(book: Bytes, size: int, at: int) -> Callable[[Bytes], Bytes]:
    return lambda raw: book[nibbles(split(raw, size)[..., at:])]


def _half_power(raw: Bytes) -> Floats:
    """2^(e - 128): half of the block's power of two, since the code book holds doubled values."""
    return np.ldexp(np.float32(1), split(raw, 17)[..., 0].astype(np.int32) - 128)


SIMPLE = (
    packed_format("Q4_0", 2, 32, 18, Packing(4, 32, _four_bits(18, 2), _scale(18))),
    packed_format("Q4_1", 3, 32, 20, Packing(4, 32, _four_bits(20, 4), _scale(20), _offset(20, 8))),
    packed_format("Q5_0", 6, 32, 22, Packing(8, 32, _five_bits(22, 2), _scale(22))),
    packed_format("Q5_1", 7, 32, 24, Packing(8, 32, _five_bits(24, 4), _scale(24), _offset(24, 16))),
    packed_format("Q8_0", 8, 32, 34, Packing(8, 32, _q8_0, _scale(34))),
    packed_format("IQ4_NL", 20, 32, 18, Packing(8, 32, _looked_up(IQ4_VALUES, 18, 2), _scale(18))),
    packed_format("MXFP4", 39, 32, 17, Packing(8, 32, _looked_up(_E2M1_DOUBLED, 17, 1), _half_power)),
)
