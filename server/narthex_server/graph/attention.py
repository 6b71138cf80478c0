"""Grouped-query attention over a cache that the caller owns."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.norm import rms_norm
from narthex_server.graph.rope import Rope
from narthex_server.weights.tensors import StoredTensor

_ROTATED_INSIDE = 16
"""GroupQueryAttention rotates only heads whose size is a multiple of this; others are rotated before it."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads share `kv_heads` keys and values; `window` is how many tokens a query sees, itself among them."""

    count: int
    kv_count: int
    size: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class CacheInputs:
    """Where rows stand: seqlens_k int32 [B] is a row's tokens after this step less one, total int32 [1] the most."""

    seqlens_k: ir.Value
    total: ir.Value
    max_len: int


def head_norm(
    graph: GraphBuilder, x: ir.Value, heads: int, size: int, weight: StoredTensor, epsilon: float
) -> ir.Value:
    """Normalise each head of x [B, S, heads*size] by itself."""
    split = graph.constant(f"split_heads.{heads}.{size}", np.array([0, 0, heads, size], np.int64))
    merge = graph.constant(f"merge_heads.{heads * size}", np.array([0, 0, heads * size], np.int64))
    return graph.op("Reshape", rms_norm(graph, graph.op("Reshape", x, split), weight, epsilon), merge)


def attention(
    graph: GraphBuilder, query: ir.Value, key: ir.Value, value: ir.Value,
    heads: Heads, rope: Rope, cache: CacheInputs, names: tuple[str, str],
) -> ir.Value:  # fmt: skip
    """Rotate, append key and value to the caches of these names, attend; [B, S, heads*size].

    The caches [slots, kv_heads, max_len, size] come in under their name and go out as `new_` + it;
    both are to be bound to the same memory.
    """
    shape = ("slots", heads.kv_count, "max_len", heads.size)
    past = [graph.input(name, ir.DataType.FLOAT, shape) for name in names]
    cosines, sines = rope.tables(cache.max_len)
    tables = graph.constant("rope.cos", cosines), graph.constant("rope.sin", sines)
    inside = heads.size % _ROTATED_INSIDE == 0
    if not inside:
        positions = graph.shared("positions", lambda: _positions(graph, query, cache.seqlens_k))
        query = _rotate(graph, query, positions, tables, heads.count)
        key = _rotate(graph, key, positions, tables, heads.kv_count)
    result, *present = graph.ops(
        "GroupQueryAttention", query, key, value, *past, cache.seqlens_k, cache.total, *(tables if inside else ()),
        outputs=3, domain=MICROSOFT, num_heads=heads.count, kv_num_heads=heads.kv_count,
        do_rotary=int(inside), rotary_interleaved=0, local_window_size=heads.window or -1,
    )  # fmt: skip
    for name, updated in zip(names, present, strict=True):
        graph.output(updated, f"new_{name}", ir.DataType.FLOAT, shape)
    return result


def _positions(graph: GraphBuilder, x: ir.Value, seqlens_k: ir.Value) -> ir.Value:
    """Positions [B, S] of the tokens of this step: the last one of each row is its seqlens_k."""
    zero, one = graph.constant("zero", np.array(0, np.int64)), graph.constant("one", np.array(1, np.int64))
    length = graph.op("Gather", graph.op("Shape", x), one, axis=0)
    back = graph.op("Range", graph.op("Sub", one, length), one, one)  # 1-S … 0
    last = graph.op("Unsqueeze", graph.op("Cast", seqlens_k, to=int(ir.DataType.INT64)), one)
    return graph.op("Add", last, graph.op("Unsqueeze", back, zero))


def _rotate(
    graph: GraphBuilder, x: ir.Value, positions: ir.Value, tables: tuple[ir.Value, ir.Value], heads: int
) -> ir.Value:
    return graph.op("RotaryEmbedding", x, positions, *tables, domain=MICROSOFT, num_heads=heads, interleaved=0)
