"""What block layouts are made of."""

import numpy as np

from narthex_server.weights.packing import Bytes, Floats


def split(raw: Bytes, size: int) -> Bytes:
    """Rows of bytes as blocks, [rows, blocks, size]."""
    return raw.reshape(len(raw), -1, size)


def half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, as float32 [rows, blocks]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)


def nibbles(packed: Bytes) -> Bytes:
    """Low halves of a run of bytes, then the high halves, along the last axis."""
    return np.concatenate((packed & np.uint8(15), packed >> np.uint8(4)), axis=-1)


def pairs(quants: Bytes) -> Bytes:
    """Four-bit values [..., block], neighbours in one byte, low half first."""
    return quants[..., 0::2] | (quants[..., 1::2] << np.uint8(4))


def fields(packed: Bytes, bits: int, count: int) -> Bytes:
    """The `count` fields of `bits` bits of every byte, lowest first: [..., n] to [..., count, n]."""
    shifts = np.arange(0, bits * count, bits, dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8((1 << bits) - 1)
