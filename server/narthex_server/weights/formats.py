"""Every block format that is known: how bytes become float32, and how they become MatMulNBits weights."""

from collections.abc import Mapping
from types import MappingProxyType

from narthex_server.weights.blocks.grouped import GROUPED
from narthex_server.weights.blocks.plain import BF16, F16, F32, F64
from narthex_server.weights.blocks.simple import SIMPLE
from narthex_server.weights.packing import BlockFormat, Bytes, Floats, Offsets, Packing

__all__ = ["BF16", "F16", "F32", "F64", "FORMATS", "BlockFormat", "Bytes", "Floats", "Offsets", "Packing"]

FORMATS: Mapping[str, BlockFormat] = MappingProxyType(
    {known.name: known for known in (F32, F16, BF16, F64, *SIMPLE, *GROUPED)}
)
