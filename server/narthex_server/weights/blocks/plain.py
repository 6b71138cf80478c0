"""Floating-point numbers, stored one by one."""

import numpy as np

from narthex_server.weights.packing import BlockFormat, Bytes, Floats


def _f32(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float32)


def _f16(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _bf16(raw: Bytes) -> Floats:
    return (np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _f64(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float64).astype(np.float32)


F32 = BlockFormat("F32", 0, 1, 4, _f32)
F16 = BlockFormat("F16", 1, 1, 2, _f16)
BF16 = BlockFormat("BF16", 30, 1, 2, _bf16)
F64 = BlockFormat("F64", 28, 1, 8, _f64)
