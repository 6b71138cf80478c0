"""Attention within whole texts that lie side by side, right-padded, and nothing kept: what embedding needs.

Inputs are tokens int64 [B, S] and lengths int32 [B], how many of each row are not padding. What comes out for the
padding means nothing, and no text sees it.
"""

import numpy as np
import onnx_ir as ir

from narthex_server.errors import InvalidModelFile
from narthex_server.graph.attention import (
    HEAD_MULTIPLE,
    Heads,
    filled_up,
    rotary_tables,
    rotate,
    sink_after_positions_and_bias,
)
from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.linear import vector
from narthex_server.graph.rope import Rope
from narthex_server.weights.tensors import StoredTensor


class CausalAttention:
    """Attention of each token to the earlier ones of its text, at most `max_len` of them."""

    def __init__(self, graph: GraphBuilder, max_len: int) -> None:
        self._graph = graph
        self._max_len = max_len
        self._lengths = graph.input("lengths", ir.DataType.INT32, ("batch",))

    def mix(
        self, layer: int, query: ir.Value, key: ir.Value, value: ir.Value, heads: Heads, rope: Rope | None
    ) -> ir.Value:
        graph = self._graph
        query, key = rotated(graph, query, key, heads, rope, self._max_len)
        if heads.size % HEAD_MULTIPLE:
            return filled_up(self, graph, layer, query, key, value, heads)
        one = graph.constant("one.int32", np.array(1, np.int32))
        last = graph.shared("last", lambda: graph.op("Sub", self._lengths, one))
        total = graph.shared("total", lambda: graph.op("Cast", extent(graph, query), to=int(ir.DataType.INT32)))
        mixed, _, _ = graph.ops(
            "GroupQueryAttention", query, key, value, None, None, last, total, None, None,
            *sink_after_positions_and_bias(graph, heads),
            outputs=3, domain=MICROSOFT, num_heads=heads.count, kv_num_heads=heads.kv_count,
            local_window_size=heads.window or -1, softcap=heads.softcap, scale=heads.scale or 0.0,
        )  # fmt: skip
        return mixed


class FullAttention:
    """Attention of each token to all of its text; a window of w reaches w//2 tokens to either side."""

    def __init__(self, graph: GraphBuilder, max_len: int) -> None:
        self._graph = graph
        self._max_len = max_len
        self._lengths = graph.input("lengths", ir.DataType.INT32, ("batch",))

    def mix(
        self, layer: int, query: ir.Value, key: ir.Value, value: ir.Value, heads: Heads, rope: Rope | None,
        bias: ir.Value | None = None,
    ) -> ir.Value:  # fmt: skip
        """As Attention; `bias` [1, 1 or heads, S, S] is added to the scores of a layer without a window."""
        graph = self._graph
        if heads.softcap or heads.sink:
            what = "soft-capped attention scores" if heads.softcap else "attention sinks"
            raise InvalidModelFile(f"config: {what} are not supported without a causal order")
        query, key = rotated(graph, query, key, heads, rope, self._max_len)
        if (window := heads.window) is not None:
            bias = graph.shared(("band", window), lambda: self._band(query, window // 2))
        return graph.op(
            "MultiHeadAttention", query, self._repeat(key, heads), self._repeat(value, heads), None,
            self._lengths, bias,
            domain=MICROSOFT, num_heads=heads.count, scale=heads.scale or heads.size**-0.5,
        )  # fmt: skip

    def _band(self, x: ir.Value, reach: int) -> ir.Value:
        """What hides all but `reach` tokens to either side, [1, 1, S, S]."""
        graph = self._graph
        far = graph.op(
            "Greater", graph.op("Abs", distances(graph, x)), graph.constant(f"reach.{reach}", np.array(reach))
        )
        no, yes = np.array(np.finfo(np.float32).min), np.array(0, np.float32)
        band = graph.op("Where", far, graph.constant("unseen", no), graph.constant("seen", yes))
        return graph.op("Unsqueeze", band, graph.constant("two_axes", np.array([0, 1], np.int64)))

    def _repeat(self, x: ir.Value, heads: Heads) -> ir.Value:
        """x [B, S, kv*size] with each head as often as queries share it."""
        if heads.count == heads.kv_count:
            return x
        graph = self._graph
        split = np.array([0, 0, heads.kv_count, heads.size], np.int64)
        merge = graph.constant(f"merge_heads.{heads.count * heads.size}", np.array([0, 0, heads.count * heads.size]))
        owners = np.repeat(np.arange(heads.kv_count), heads.count // heads.kv_count)
        each = graph.op("Reshape", x, graph.constant(f"split_heads.{heads.kv_count}.{heads.size}", split))
        each = graph.op("Gather", each, graph.constant(f"owners.{heads.count}.{heads.kv_count}", owners), axis=2)
        return graph.op("Reshape", each, merge)


def rotated(
    graph: GraphBuilder, query: ir.Value, key: ir.Value, heads: Heads, rope: Rope | None, max_len: int
) -> tuple[ir.Value, ir.Value]:
    """Query and key turned to the places of their tokens, which every text counts from 0."""
    if rope is None:
        return query, key
    rope = rope.within(max_len)
    if rope.beyond is not None:
        raise InvalidModelFile(
            f"config: texts beyond {rope.beyond.length} tokens turn otherwise, which is not supported for embeddings; "
            f"lower the context to {rope.beyond.length}"
        )
    tables = rotary_tables(graph, rope, max_len)
    start = graph.constant("start", np.array([0], np.int64))
    return (
        rotate(graph, query, start, tables, heads.count, rope.size, heads.size),
        rotate(graph, key, start, tables, heads.kv_count, rope.size, heads.size),
    )


def extent(graph: GraphBuilder, x: ir.Value) -> ir.Value:
    """The length S of a batch [B, S, …], as a vector of one."""
    return graph.shared("extent", lambda: graph.op("Shape", x, start=1, end=2))


def distances(graph: GraphBuilder, x: ir.Value) -> ir.Value:
    """How far behind the token of the row that of the column is, [S, S], for a batch x [B, S, …]."""

    def made() -> ir.Value:
        zero, one = graph.constant("zero", np.array(0, np.int64)), graph.constant("one", np.array(1, np.int64))
        scalar = graph.constant("scalar", np.array([], np.int64))
        places = graph.op("Range", zero, graph.op("Reshape", extent(graph, x), scalar), one)
        return graph.op("Sub", graph.op("Unsqueeze", places, zero), graph.op("Unsqueeze", places, one))

    return graph.shared("distances", made)


def learned_places(graph: GraphBuilder, tokens: ir.Value, table: StoredTensor, first: int) -> ir.Value:
    """The vectors [S, hidden] of the places in every text; that of its first token is row `first` of the table."""
    start = graph.constant("first_place", np.array([first], np.int64))
    end = graph.op("Add", extent(graph, tokens), start)
    axis = graph.constant("first_axis", np.array([0], np.int64))
    return graph.op("Slice", vector(graph, table), start, end, axis)
