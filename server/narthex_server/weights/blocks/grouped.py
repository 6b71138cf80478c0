"""Blocks of 256 values: groups of 16 or 32, whose scales are small integers times the block's float16."""

from collections.abc import Callable

import numpy as np

from narthex_server.weights.blocks.layout import fields, half, nibbles, pairs, split
from narthex_server.weights.blocks.simple import IQ4_VALUES
from narthex_server.weights.packing import Bytes, Floats, Offsets, Packing, packed_format


def _low_bits(blocks: Bytes, bits: int) -> Bytes:
    """Fields of runs of 32 bytes [..., n]: the lowest of a run's 32 bytes first; [..., n / 32 * 8 / bits, 32]."""
    runs = blocks.reshape(*blocks.shape[:-1], -1, 32)
    return fields(runs, bits, 8 // bits).reshape(*blocks.shape[:-1], -1, 32)


def _q4_k(raw: Bytes) -> Bytes:
    return pairs(_low_bits(split(raw, 144)[..., 16:], 4)).reshape(len(raw), -1, 16)


def _q5_k(raw: Bytes) -> Bytes:
    blocks = split(raw, 176)
    high = _low_bits(blocks[..., 16:48], 1) << np.uint8(4)
    return ((_low_bits(blocks[..., 48:], 4) | high) + np.uint8(112)).reshape(len(raw), -1, 32)


def _six_bit_scales(size: int) -> Callable[[Bytes], Floats]:
    """Scales of Q4_K and Q5_K: a float16 times eight 6-bit integers in twelve bytes."""

    def scales(raw: Bytes) -> Floats:
        blocks = split(raw, size)
        low, high = blocks[..., 4:8], blocks[..., 12:16]
        integers = np.concatenate((low & 63, (high & 15) | ((low >> 2) & 48)), axis=-1)
        return (half(blocks, 0)[..., None] * integers).reshape(len(raw), -1)

    return scales


def _six_bit_offsets(size: int, centre: int) -> Offsets:
    """w = scale * q - minimum is a product around the centre of q, and an offset: centre * scale - minimum."""
    scales = _six_bit_scales(size)

    def values(raw: Bytes) -> Floats:
        blocks = split(raw, size)
        middle, high = blocks[..., 8:12], blocks[..., 12:16]
        integers = np.concatenate((middle & 63, (high >> 4) | ((middle >> 2) & 48)), axis=-1)
        return scales(raw) * centre - (half(blocks, 2)[..., None] * integers).reshape(len(raw), -1)

    return Offsets(32, values)


def _q6_k(raw: Bytes) -> Bytes:
    blocks = split(raw, 210)
    low = fields(blocks[..., :128].reshape(len(raw), -1, 2, 64), 4, 2).reshape(len(raw), -1, 8, 32)
    high = _low_bits(blocks[..., 128:192], 2)
    return ((low | (high << np.uint8(4))) + np.uint8(96)).reshape(len(raw), -1, 16)


def _q6_k_scales(raw: Bytes) -> Floats:
    blocks = split(raw, 210)
    integers = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return (half(blocks, 208)[..., None] * integers).reshape(len(raw), -1)


# In Q2_K and Q3_K the product of a value and its group's integer scale fits eight bits, so the whole block has one
# scale and may be cut into larger blocks than its groups: 1.5 to 2 times as fast as four bits in blocks of 16.
_PRODUCTS = 64


def _of_products(products: Bytes) -> Bytes:
    return products.reshape(len(products), -1, _PRODUCTS)


def _block_scale(size: int, at: int, sign: int) -> Callable[[Bytes], Floats]:
    return lambda raw: np.repeat(sign * half(split(raw, size), at), 256 // _PRODUCTS, axis=-1)


def _q2_k(raw: Bytes) -> Bytes:
    blocks = split(raw, 84)
    quants = _low_bits(blocks[..., 16:80], 2).reshape(len(raw), -1, 16, 16)
    return _of_products(quants * (blocks[..., :16, None] & np.uint8(15)) + np.uint8(128))


def _q2_k_offsets(raw: Bytes) -> Floats:
    blocks = split(raw, 84)
    return (-half(blocks, 82)[..., None] * (blocks[..., :16] >> 4)).reshape(len(raw), -1)


def _q3_k(raw: Bytes) -> Bytes:
    """Products lie in -124 to 128: negated, with a negated scale, they fit."""
    blocks = split(raw, 110)
    high = _low_bits(blocks[..., :32], 1) << np.uint8(2)
    quants = (_low_bits(blocks[..., 32:96], 2) | high).reshape(len(raw), -1, 16, 16)
    low = nibbles(blocks[..., 96:104])
    scales = low | (fields(blocks[..., 104:108], 2, 4).reshape(low.shape) << np.uint8(4))
    products = np.asarray((np.uint8(4) - quants) * (scales[..., None] - np.uint8(32)), np.uint8)
    return _of_products(products + np.uint8(128))


def _iq4_xs(raw: Bytes) -> Bytes:
    return IQ4_VALUES[nibbles(split(raw, 136)[..., 8:].reshape(len(raw), -1, 16))]


def _iq4_xs_scales(raw: Bytes) -> Floats:
    blocks = split(raw, 136)
    low = fields(blocks[..., 4:8], 4, 2).swapaxes(-1, -2)
    high = fields(blocks[..., 2:4], 2, 4).swapaxes(-1, -2)
    integers = (low.reshape(*low.shape[:-2], 8) | (high.reshape(*high.shape[:-2], 8) << np.uint8(4))).astype(np.float32)
    return (half(blocks, 0)[..., None] * (integers - 32)).reshape(len(raw), -1)


GROUPED = (
    packed_format(
        "Q2_K", 10, 256, 84, Packing(8, _PRODUCTS, _q2_k, _block_scale(84, 80, 1), Offsets(16, _q2_k_offsets))
    ),
    packed_format("Q3_K", 11, 256, 110, Packing(8, _PRODUCTS, _q3_k, _block_scale(110, 108, -1))),
    packed_format("Q4_K", 12, 256, 144, Packing(4, 32, _q4_k, _six_bit_scales(144), _six_bit_offsets(144, 8))),
    packed_format("Q5_K", 13, 256, 176, Packing(8, 32, _q5_k, _six_bit_scales(176), _six_bit_offsets(176, 16))),
    packed_format("Q6_K", 14, 256, 210, Packing(8, 16, _q6_k, _q6_k_scales)),
    packed_format("IQ4_XS", 23, 256, 136, Packing(8, 32, _iq4_xs, _iq4_xs_scales)),
)
