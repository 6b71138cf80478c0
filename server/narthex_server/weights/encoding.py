"""How float32 becomes blocks: one encoder for each quantised format that weights are written in.

An encoder takes float32 [blocks, values of a block] and gives uint8 [blocks, bytes of a block]. The formats with one
scale for 32 values round as ggml does, byte for byte; of the others (K) only the layouts are ggml's: their scales are
searched for.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import BlockFormat, Bytes, Floats
from narthex_server.weights.search import affine, inverse, symmetric

_BEFORE_HALF = np.nextafter(np.float32(0.5), np.float32(0))
_LARGEST = float(np.finfo(np.float16).max)
_TILE = 1 << 18
"""Values that are encoded at a time: few enough for a core's cache, enough to hide the interpreter."""


def encode(name: str, values: Floats, stored: BlockFormat) -> Bytes:
    """Encode rows [rows, columns] of the tensor `name` as uint8 [rows, bytes of a row].

    InvalidModelFile for a value that no block can hold: an infinity, a NaN, or one beyond float16, the type of scales.
    """
    if not np.abs(values).max(initial=0) <= _LARGEST:  # also a NaN
        raise InvalidModelFile(
            f"tensor {name} holds a value that is not a number or beyond ±{_LARGEST:g}; it cannot be quantised"
        )
    encoder = ENCODERS[stored.name]
    blocks = np.ascontiguousarray(values).reshape(-1, stored.block)
    step = _TILE // stored.block
    out = np.empty((len(blocks), stored.bytes), np.uint8)
    for start in range(0, len(blocks), step):
        out[start : start + step] = encoder(blocks[start : start + step])
    return out.reshape(len(values), values.shape[1] // stored.block * stored.bytes)


def _half(values: Floats) -> Bytes:
    """float16 bytes [blocks, 2] of one value per block."""
    return values.astype(np.float16)[:, None].view(np.uint8)


def _rounded(values: Floats) -> Floats:
    """float16's nearest values: what a decoder will multiply by."""
    return values.astype(np.float16).astype(np.float32)


def _q8_0(blocks: Floats) -> Bytes:
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    quants = blocks * inverse(scale)[:, None]
    quants += np.copysign(_BEFORE_HALF, quants)  # with the cast below: to the nearest, halves away from zero
    return np.concatenate((_half(scale), quants.astype(np.int8).view(np.uint8)), axis=1)


def _signed(blocks: Floats, levels: int) -> tuple[Bytes, Bytes]:
    """Scale and values of 0 to 2*levels-1, the value of the largest magnitude at -levels."""
    at = np.abs(blocks).argmax(axis=1)
    scale = np.take_along_axis(blocks, at[:, None], axis=1)[:, 0] / np.float32(-levels)
    quants = blocks * inverse(scale)[:, None] + np.float32(levels + 0.5)
    return _half(scale), np.minimum(quants.astype(np.uint8), 2 * levels - 1)


def _ranged(blocks: Floats, levels: int) -> tuple[Bytes, Bytes]:
    """Scale and minimum, and values of 0 to levels from the least to the largest."""
    least = blocks.min(axis=1)
    scale = (blocks.max(axis=1) - least) / np.float32(levels)
    quants = (blocks - least[:, None]) * inverse(scale)[:, None] + np.float32(0.5)
    return np.concatenate((_half(scale), _half(least)), axis=1), np.minimum(quants.astype(np.uint8), levels)


def _halves(quants: Bytes) -> Bytes:
    """Two runs [..., 2, n] as the low and the high four bits of one [..., n]."""
    return (quants[..., 0, :] & np.uint8(15)) | (quants[..., 1, :] << np.uint8(4))


def _with_nibbles(head: Bytes, quants: Bytes) -> Bytes:
    return np.concatenate((head, _halves(quants.reshape(-1, 2, 16))), axis=1)


def _with_fifth_bits(head: Bytes, quants: Bytes) -> Bytes:
    fifth = np.packbits(quants >> np.uint8(4), axis=1, bitorder="little")
    return _with_nibbles(np.concatenate((head, fifth), axis=1), quants)


def _layered(quants: Bytes, bits: int) -> Bytes:
    """Values of a few bits [..., 8/bits, n] in one byte each [..., n], the first lowest."""
    out = quants[..., 0, :].copy()
    for layer in range(1, 8 // bits):
        out |= quants[..., layer, :] << np.uint8(layer * bits)
    return out


def _columns(blocks: Floats, size: int) -> Floats:
    """Sub-blocks as columns, [size, sub-blocks]."""
    return np.ascontiguousarray(blocks.reshape(-1, size).T)


def _integers(values: Floats, steps: Floats) -> Floats:
    return np.asarray(np.rint(values * inverse(steps)[:, None]))


def _searched_ranges(
    blocks: Floats, size: int, levels: int, largest: int
) -> tuple[Floats, Floats, Floats, Floats, Bytes]:
    """Steps of scales and minima [blocks], both in steps [blocks, sub-blocks] up to `largest`, values [blocks, 256]."""
    count = 256 // size
    scales, minima = (found.reshape(-1, count) for found in affine(_columns(blocks, size), levels))
    scale_step, minimum_step = (_rounded(found.max(axis=1) / np.float32(largest)) for found in (scales, minima))
    scales = np.minimum(_integers(scales, scale_step), largest)
    minima = np.minimum(_integers(minima, minimum_step), largest)
    real_scale = (scale_step[:, None] * scales).reshape(-1, 1)
    shifted = blocks.reshape(-1, size) + (minimum_step[:, None] * minima).reshape(-1, 1)
    quants = np.clip(np.rint(shifted * inverse(real_scale)), 0, levels).astype(np.uint8)
    return scale_step, minimum_step, scales, minima, quants.reshape(len(blocks), 256)


def _searched_signed(blocks: Floats, levels: int, largest: int) -> tuple[Floats, Floats, Bytes]:
    """The step of scales [blocks], scales in steps [blocks, 16] from -largest, values below 2*levels [blocks, 256]."""
    scales = symmetric(_columns(blocks, 16), levels).reshape(-1, 16)
    at = np.abs(scales).argmax(axis=1)
    step = _rounded(np.take_along_axis(scales, at[:, None], axis=1)[:, 0] / np.float32(-largest))
    scales = np.clip(_integers(scales, step), -largest, largest - 1)
    real_scale = (step[:, None] * scales).reshape(-1, 1)
    quants = np.clip(np.rint(blocks.reshape(-1, 16) * inverse(real_scale)), -levels, levels - 1) + levels
    return step, scales, quants.astype(np.uint8).reshape(len(blocks), 256)


def _six_bits(scales: Floats, minima: Floats) -> Bytes:
    """Eight scales and eight minima of six bits in twelve bytes."""
    scale, minimum = scales.astype(np.uint8), minima.astype(np.uint8)
    low_scale, high_scale, low_minimum, high_minimum = scale[:, :4], scale[:, 4:], minimum[:, :4], minimum[:, 4:]
    return np.concatenate(
        (
            low_scale | ((high_scale >> 4) << 6),
            low_minimum | ((high_minimum >> 4) << 6),
            (high_scale & 15) | ((high_minimum & 15) << 4),
        ),
        axis=1,
    )


def _q2_k(blocks: Floats) -> Bytes:
    scale_step, minimum_step, scales, minima, quants = _searched_ranges(blocks, 16, 3, 15)
    integers = scales.astype(np.uint8) | (minima.astype(np.uint8) << 4)
    twos = _layered(quants.reshape(-1, 2, 4, 32), 2).reshape(-1, 64)
    return np.concatenate((integers, twos, _half(scale_step), _half(minimum_step)), axis=1)


def _q3_k(blocks: Floats) -> Bytes:
    step, scales, quants = _searched_signed(blocks, 4, 32)
    integers = (scales + 32).astype(np.uint8)
    packed = np.concatenate(
        (_halves(integers.reshape(-1, 2, 8)), _layered((integers >> np.uint8(4)).reshape(-1, 4, 4), 2)), axis=1
    )
    third = _layered((quants >> np.uint8(2)).reshape(-1, 8, 32), 1)
    twos = _layered((quants & np.uint8(3)).reshape(-1, 2, 4, 32), 2).reshape(-1, 64)
    return np.concatenate((third, twos, packed, _half(step)), axis=1)


def _q4_k(blocks: Floats) -> Bytes:
    scale_step, minimum_step, scales, minima, quants = _searched_ranges(blocks, 32, 15, 63)
    nibbles = _halves(quants.reshape(-1, 4, 2, 32)).reshape(-1, 128)
    return np.concatenate((_half(scale_step), _half(minimum_step), _six_bits(scales, minima), nibbles), axis=1)


def _q5_k(blocks: Floats) -> Bytes:
    scale_step, minimum_step, scales, minima, quants = _searched_ranges(blocks, 32, 31, 63)
    fifth = _layered((quants >> np.uint8(4)).reshape(-1, 8, 32), 1)
    nibbles = _halves(quants.reshape(-1, 4, 2, 32)).reshape(-1, 128)
    return np.concatenate((_half(scale_step), _half(minimum_step), _six_bits(scales, minima), fifth, nibbles), axis=1)


def _q6_k(blocks: Floats) -> Bytes:
    step, scales, quants = _searched_signed(blocks, 32, 128)
    runs = quants.reshape(-1, 2, 2, 2, 32)  # halves of 128; the low and the high nibbles; two runs each
    nibbles = _halves(runs.swapaxes(2, 3)).reshape(-1, 128)
    high = _layered((quants >> np.uint8(4)).reshape(-1, 2, 4, 32), 2).reshape(-1, 64)
    return np.concatenate((nibbles, high, scales.astype(np.int8).view(np.uint8), _half(step)), axis=1)


ENCODERS: Mapping[str, Callable[[Floats], Bytes]] = MappingProxyType(
    {
        "Q8_0": _q8_0,
        "Q6_K": _q6_k,
        "Q5_K": _q5_k,
        "Q5_1": lambda blocks: _with_fifth_bits(*_ranged(blocks, 31)),
        "Q5_0": lambda blocks: _with_fifth_bits(*_signed(blocks, 16)),
        "Q4_K": _q4_k,
        "Q4_1": lambda blocks: _with_nibbles(*_ranged(blocks, 15)),
        "Q4_0": lambda blocks: _with_nibbles(*_signed(blocks, 8)),
        "Q3_K": _q3_k,
        "Q2_K": _q2_k,
    }
)
