"""Grouped-query attention: heads that share keys and values, over a cache that the caller owns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, Attribute, GraphBuilder
from narthex_server.graph.linear import vector
from narthex_server.graph.norm import rms_norm
from narthex_server.graph.peaks import Peaks
from narthex_server.graph.rope import Rope
from narthex_server.weights.tensors import StoredTensor

_ROTATED_INSIDE = 16
"""GroupQueryAttention rotates only heads whose size is a multiple of this; others are rotated before it."""
HEAD_MULTIPLE = 8
"""GroupQueryAttention takes only heads whose size is a multiple of this; others are filled up with zeros."""
_INT8_CACHE: Mapping[str, Attribute] = MappingProxyType(
    {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
)


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads share `kv_count` keys and values; `window` is how many tokens a query sees, itself among them.

    Scores are multiplied by `scale` (None is size^-1/2), then squeezed to softcap * tanh(score / softcap) unless 0.
    `sink` [count] is one more score of each head, whose weight is lost.
    """

    count: int
    kv_count: int
    size: int
    window: int | None = None
    scale: float | None = None
    softcap: float = 0.0
    sink: StoredTensor | None = None


class Attention(Protocol):
    """How the tokens of a layer see each other, and where their keys and values stay."""

    def mix(
        self, layer: int, query: ir.Value, key: ir.Value, value: ir.Value, heads: Heads, rope: Rope | None
    ) -> ir.Value:
        """Rotate (None does not) and attend; query and result [B, S, heads*size], key and value [B, S, kv*size]."""
        ...


class CachedAttention:
    """Attention to all earlier tokens of a row: the caches of layer i are `key.i` and `value.i`.

    Each cache [slots, kv_heads, max_len, size] comes in under its name and goes out as `new_` + it; both are to be
    bound to the same memory. It is float32, or int8 where `peaks` say how large the values of every layer become.
    seqlens_k int32 [B] is a row's tokens after this step less one, total int32 [1] the most. known int32 [B], an input
    only where a rope has a table for long prompts, is a row's tokens cached or to come.
    """

    def __init__(self, graph: GraphBuilder, max_len: int, peaks: Mapping[int, Peaks] | None = None) -> None:
        self._graph = graph
        self._max_len = max_len
        self._peaks = peaks
        self._seqlens_k = graph.input("seqlens_k", ir.DataType.INT32, ("batch",))
        self._total = graph.input("total", ir.DataType.INT32, (1,))

    def mix(
        self, layer: int, query: ir.Value, key: ir.Value, value: ir.Value, heads: Heads, rope: Rope | None
    ) -> ir.Value:
        graph, names = self._graph, (f"key.{layer}", f"value.{layer}")
        rope = rope.within(self._max_len) if rope else None
        tables = rotary_tables(graph, rope, self._max_len) if rope else None
        inside = rope is not None and rotates_inside(rope, heads)
        if rope and tables and not inside:
            positions = self._positions(query, rope)
            query = rotate(graph, query, positions, tables, heads.count, rope.size, heads.size)
            key = rotate(graph, key, positions, tables, heads.kv_count, rope.size, heads.size)
        if heads.size % HEAD_MULTIPLE:
            return filled_up(self, graph, layer, query, key, value, heads)
        shape = ("slots", heads.kv_count, "max_len", heads.size)
        peaks = self._peaks[layer] if self._peaks is not None else None
        kind = ir.DataType.FLOAT if peaks is None else ir.DataType.INT8
        past = [graph.input(name, kind, shape) for name in names]
        inputs = undivided(query, key, value) or (query, key, value)
        result, *present = graph.ops(
            "GroupQueryAttention", *inputs, *past, self._seqlens_k, self._total,
            *(tables if inside and tables else (None, None)), *sink_after_positions_and_bias(graph, heads),
            *(_units(graph, layer, peaks, rope, heads) if peaks else ()),
            outputs=3, domain=MICROSOFT, num_heads=heads.count, kv_num_heads=heads.kv_count,
            do_rotary=int(inside), rotary_interleaved=0, local_window_size=heads.window or -1,
            softcap=heads.softcap, scale=heads.scale or 0.0, **(_INT8_CACHE if peaks else {}),
        )  # fmt: skip
        for name, updated in zip(names, present, strict=True):
            graph.output(updated, f"new_{name}", kind, shape)
        return result

    def _positions(self, x: ir.Value, rope: Rope) -> ir.Value:
        """Rows of the tables for the tokens of this step [B, S]; those of long prompts are in the second half."""
        graph = self._graph
        positions = graph.shared("positions", lambda: _positions(graph, x, self._seqlens_k))
        if rope.beyond is None:
            return positions
        graph.note("long_prompt", str(rope.beyond.length))
        border = rope.beyond.length
        return graph.shared(("positions", border), lambda: self._shifted(positions, border))

    def _shifted(self, positions: ir.Value, border: int) -> ir.Value:
        graph = self._graph
        known = graph.input("known", ir.DataType.INT32, ("batch",))
        long = graph.op("Greater", known, graph.constant("border", np.array(border, np.int32)))
        shift = graph.constant("long_rows", np.array(self._max_len, np.int64))
        shift = graph.op("Where", long, shift, graph.constant("zero", np.array(0, np.int64)))
        one = graph.constant("one", np.array(1, np.int64))
        return graph.op("Add", positions, graph.op("Unsqueeze", shift, one))


def undivided(query: ir.Value, key: ir.Value, value: ir.Value) -> tuple[ir.Value, None, None] | None:
    """What the three are parts of, as GroupQueryAttention takes it; None where they are not neighbours in one value."""
    node = query.producer()
    if node is None or node.op_type != "Split" or list(node.outputs) != [query, key, value]:
        return None
    whole = node.inputs[0]
    assert whole is not None
    return whole, None, None


def _units(
    graph: GraphBuilder, layer: int, peaks: Peaks, rope: Rope | None, heads: Heads
) -> tuple[ir.Value | None, ...]:
    """The inputs of GroupQueryAttention after the sink: what one unit of an int8 cache's channels means."""
    named = zip(("key", "value"), peaks.units(rope.size if rope else 0), strict=True)
    units = [graph.constant(f"{name}_unit.{layer}", values) for name, values in named]
    return (*(() if heads.sink else (None, None, None)), *units)


def rotates_inside(rope: Rope, heads: Heads) -> bool:
    """Whether the attention operators can turn these heads themselves."""
    return rope.beyond is None and rope.size == heads.size and heads.size % _ROTATED_INSIDE == 0


def filled_up(
    attention: Attention, graph: GraphBuilder, layer: int, query: ir.Value, key: ir.Value, value: ir.Value, heads: Heads
) -> ir.Value:
    """Attend with zeros behind each head, rotated already: they change neither scores nor the values before them."""
    size = -(-heads.size // HEAD_MULTIPLE) * HEAD_MULTIPLE
    counts = (heads.count, heads.kv_count, heads.kv_count)
    query, key, value = (
        resize_heads(graph, x, count, heads.size, size) for x, count in zip((query, key, value), counts, strict=True)
    )
    wide = replace(heads, size=size, scale=heads.scale or heads.size**-0.5)
    return resize_heads(graph, attention.mix(layer, query, key, value, wide, None), heads.count, size, heads.size)


def head_norm(
    graph: GraphBuilder, x: ir.Value, heads: int, size: int, weight: StoredTensor, epsilon: float
) -> ir.Value:
    """Normalise each head of x [B, S, heads*size] by itself."""
    split = graph.constant(f"split_heads.{heads}.{size}", np.array([0, 0, heads, size], np.int64))
    merge = graph.constant(f"merge_heads.{heads * size}", np.array([0, 0, heads * size], np.int64))
    return graph.op("Reshape", rms_norm(graph, graph.op("Reshape", x, split), weight, epsilon), merge)


def resize_heads(graph: GraphBuilder, x: ir.Value, heads: int, size: int, wanted: int) -> ir.Value:
    """Give each head of x [B, S, heads*size] `wanted` values: zeros behind its own, or only the first ones."""
    split = graph.constant(f"split_heads.{heads}.{size}", np.array([0, 0, heads, size], np.int64))
    merge = graph.constant(f"merge_heads.{heads * wanted}", np.array([0, 0, heads * wanted], np.int64))
    more = graph.constant(f"fill_heads.{wanted - size}", np.array([0] * 7 + [wanted - size], np.int64))
    return graph.op("Reshape", graph.op("Pad", graph.op("Reshape", x, split), more), merge)


def split_heads(graph: GraphBuilder, x: ir.Value, heads: int, sizes: Sequence[int]) -> list[ir.Value]:
    """Cut each head of x [B, S, heads*sum(sizes)] into parts of these sizes; the parts of all heads together again."""
    split = graph.constant(f"split_heads.{heads}.{sum(sizes)}", np.array([0, 0, heads, sum(sizes)], np.int64))
    merges = [graph.constant(f"merge_heads.{heads * size}", np.array([0, 0, heads * size])) for size in sizes]
    parts = graph.split(graph.op("Reshape", x, split), sizes)
    return [graph.op("Reshape", part, merge) for part, merge in zip(parts, merges, strict=True)]


def sink_after_positions_and_bias(graph: GraphBuilder, heads: Heads) -> tuple[ir.Value | None, ...]:
    """The last inputs of GroupQueryAttention that are used here."""
    return (None, None, vector(graph, heads.sink)) if heads.sink else ()


def rotary_tables(graph: GraphBuilder, rope: Rope, length: int) -> tuple[ir.Value, ir.Value]:
    """Cosines and sines [length, size/2] as weights, one pair for all layers that turn alike."""
    cosines = graph.shared((rope, "cos"), lambda: graph.unnamed("rope.cos", rope.tables(length)[0]))
    sines = graph.shared((rope, "sin"), lambda: graph.unnamed("rope.sin", rope.tables(length)[1]))
    return cosines, sines


def rotate(
    graph: GraphBuilder, x: ir.Value, positions: ir.Value, tables: tuple[ir.Value, ir.Value],
    heads: int, rotated: int, size: int,
) -> ir.Value:  # fmt: skip
    """Turn the first `rotated` values of each head of x [B, S, heads*size] to their positions [B, S]."""
    partial = {} if rotated == size else {"rotary_embedding_dim": rotated}
    return graph.op(
        "RotaryEmbedding", x, positions, *tables, domain=MICROSOFT, num_heads=heads, interleaved=0, **partial
    )


def _positions(graph: GraphBuilder, x: ir.Value, seqlens_k: ir.Value) -> ir.Value:
    """Positions [B, S] of the tokens of this step: the last one of each row is its seqlens_k."""
    zero, one = graph.constant("zero", np.array(0, np.int64)), graph.constant("one", np.array(1, np.int64))
    length = graph.op("Gather", graph.op("Shape", x), one, axis=0)
    back = graph.op("Range", graph.op("Sub", one, length), one, one)  # 1-S … 0
    last = graph.op("Unsqueeze", graph.op("Cast", seqlens_k, to=int(ir.DataType.INT64)), one)
    return graph.op("Add", last, graph.op("Unsqueeze", back, zero))
