"""Attention over paged caches: the tokens of many sequences, packed into one row, and a table of each one's blocks.

What a CUDA graph has where a CPU graph has GroupQueryAttention; the rest of a model is the same.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from narthex_server.errors import NotOnDevice
from narthex_server.graph.attention import (
    HEAD_MULTIPLE,
    Heads,
    filled_up,
    rotary_tables,
    rotate,
    rotates_inside,
)
from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.rope import Rope

BLOCK = 256
"""Tokens of a block. The flash kernels want a multiple of 256 for heads of up to 64 values, of less for larger ones."""
CANDIDATES = 64
"""How many of the best tokens a graph names beside the logits."""
BEST_LOGITS, BEST_TOKENS = "best_logits", "best_tokens"

UNSUITED: Mapping[str, str] = MappingProxyType(
    {
        "CausalConvWithState": "it keeps states beside keys and values",
        "LinearAttention": "it keeps states beside keys and values",
        "MoE": "the operator for its experts wants their weights in another order there",
        "QMoE": "the operator for its experts wants their weights in another order there",
        "NonZero": "how many tokens an expert has changes from step to step, and no step could be captured",
    }
)
"""Operators that no packed graph may have, and why."""


class PagedAttention:
    """Attention to all earlier tokens of a sequence: the caches of layer i are `key.i` and `value.i`.

    Each cache [blocks, BLOCK, kv_heads, size] comes in under its name and goes out as `new_` + it; both are to be
    bound to the same memory. The step's tokens are [1, T], one sequence behind the other. int32 cu_seqlens [N+1] is
    where each begins and the last ends, past_seqlens [N] what it has cached, block_table [N, M] its blocks,
    slot_mapping [T] each token's place in the caches (-1 keeps it out), attention_metadata [2], in host memory, bounds
    of the new and of all tokens of any sequence. positions int64 [1, T], an input only where something is rotated
    outside the operator, are rows of the tables; those of long prompts begin at `max_len`.
    """

    def __init__(self, graph: GraphBuilder, max_len: int) -> None:
        self._graph = graph
        self._max_len = max_len
        self._starts = graph.input("cu_seqlens", ir.DataType.INT32, ("bounds",))
        self._past = graph.input("past_seqlens", ir.DataType.INT32, ("sequences",))
        self._table = graph.input("block_table", ir.DataType.INT32, ("sequences", "table"))
        self._places = graph.input("slot_mapping", ir.DataType.INT32, ("length",))
        self._most = graph.input("attention_metadata", ir.DataType.INT32, (2,))

    def mix(
        self, layer: int, query: ir.Value, key: ir.Value, value: ir.Value, heads: Heads, rope: Rope | None
    ) -> ir.Value:
        if heads.sink is not None:
            raise NotOnDevice("this model cannot run on CUDA: its attention has sinks")
        graph, names = self._graph, (f"key.{layer}", f"value.{layer}")
        rope = rope.within(self._max_len) if rope else None
        tables = rotary_tables(graph, rope, self._max_len) if rope else None
        inside = rope is not None and rotates_inside(rope, heads)
        if rope and tables and not inside:
            positions = self._positions(rope)
            query = rotate(graph, query, positions, tables, heads.count, rope.size, heads.size)
            key = rotate(graph, key, positions, tables, heads.kv_count, rope.size, heads.size)
        if heads.size % HEAD_MULTIPLE:
            return filled_up(self, graph, layer, query, key, value, heads)
        shape = ("blocks", BLOCK, heads.kv_count, heads.size)
        past = [graph.input(name, graph.dtype, shape) for name in names]
        packed = [self._packed(x, count * heads.size) for x, count in zip(
            (query, key, value), (heads.count, heads.kv_count, heads.kv_count), strict=True
        )]  # fmt: skip
        scale = {} if heads.scale is None else {"scale": heads.scale}
        neither_sinks_nor_norms_nor_scales = (None,) * 5
        result, *present = graph.ops(
            "PagedAttention", *packed, *past, self._starts, self._past, self._table,
            *(tables if inside and tables else (None, None)), self._places,
            *neither_sinks_nor_norms_nor_scales, self._most,
            outputs=3, domain=MICROSOFT, num_heads=heads.count, kv_num_heads=heads.kv_count,
            do_rotary=int(inside), rotary_interleaved=0, local_window_size=heads.window or -1,
            softcap=heads.softcap, **scale,
        )  # fmt: skip
        for name, updated in zip(names, present, strict=True):
            graph.output(updated, f"new_{name}", graph.dtype, shape)
        width = heads.count * heads.size
        return graph.op("Reshape", result, graph.constant(f"one_row.{width}", np.array([1, -1, width], np.int64)))

    def _packed(self, x: ir.Value, width: int) -> ir.Value:
        """x [1, T, width] without its first axis."""
        return self._graph.op("Reshape", x, self._graph.constant(f"packed.{width}", np.array([-1, width], np.int64)))

    def _positions(self, rope: Rope) -> ir.Value:
        graph = self._graph
        if rope.beyond is not None:
            graph.note("long_prompt", str(rope.beyond.length))
        return graph.shared("positions", lambda: graph.input("positions", ir.DataType.INT64, (1, "length")))


def check(graph: GraphBuilder) -> None:
    """Raise NotOnDevice for a packed graph that has an operator which cannot be there."""
    for kind, reason in UNSUITED.items():
        if kind in graph.kinds:
            raise NotOnDevice(f"this model cannot run on CUDA: {reason}")


def name_best(graph: GraphBuilder, vocab: int) -> None:
    """Add outputs best_logits and best_tokens [R, K]: the largest of the logits [R, vocab], in falling order."""
    count = min(CANDIDATES, vocab)
    wanted = graph.constant("candidates", np.array([count], np.int64))
    values, tokens = graph.ops("TopK", graph.found("logits"), wanted, outputs=2, axis=-1, largest=1, sorted=1)
    graph.output(values, BEST_LOGITS, ir.DataType.FLOAT, ("rows", count))
    graph.output(tokens, BEST_TOKENS, ir.DataType.INT64, ("rows", count))


def copy_graph(graph: GraphBuilder) -> None:
    """A graph that copies the values of `source` to `target`: how a range of blocks moves within a device."""
    copied = graph.op("Identity", graph.input("source", graph.dtype, ("values",)))
    graph.output(copied, "target", graph.dtype, ("values",))
