"""Linear attention by the gated delta rule: what a row remembers is one matrix a head, whatever its length."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder

_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class DeltaHeads:
    """`count` heads of values of `size`, which share `key_count` heads of queries and keys of `key_size`."""

    key_count: int
    key_size: int
    count: int
    size: int

    @property
    def keys(self) -> int:
        """Values of all heads of keys of a token."""
        return self.key_count * self.key_size

    @property
    def values(self) -> int:
        """Values of all heads of values of a token."""
        return self.count * self.size


def gated_delta(
    graph: GraphBuilder, layer: int, query: ir.Value, key: ir.Value, value: ir.Value,
    decay: ir.Value, rate: ir.Value, heads: DeltaHeads,
) -> ir.Value:  # fmt: skip
    """Query and key [B, S, keys], value [B, S, values], decay (a logarithm) and rate [B, S, count]; [B, S, values].

    Each token makes S = exp(decay) S, then S += rate * k (v - k S), and reads q S / sqrt(key_size), where q and k have
    length 1 (https://arxiv.org/abs/2412.06464). S [slots, count, key_size, size] comes in as `memory.i` and goes out as
    `new_memory.i` for layer i; a row that is padded on the right would remember the padding.
    """
    name, shape = f"memory.{layer}", ("slots", heads.count, heads.key_size, heads.size)
    past = graph.input(name, ir.DataType.FLOAT, shape)
    query, key = (_of_length_one(graph, x, heads) for x in (query, key))
    result, present = graph.ops(
        "LinearAttention", query, key, value, past, decay, rate,
        outputs=2, domain=MICROSOFT, update_rule="gated_delta", q_num_heads=heads.key_count, kv_num_heads=heads.count,
    )  # fmt: skip
    graph.output(present, f"new_{name}", ir.DataType.FLOAT, shape)
    return result


def _of_length_one(graph: GraphBuilder, x: ir.Value, heads: DeltaHeads) -> ir.Value:
    """Each head over the root of its sum of squares + epsilon, which is an RMS norm with other constants."""
    count, size = heads.key_count, heads.key_size
    split = graph.constant(f"split_heads.{count}.{size}", np.array([0, 0, count, size], np.int64))
    merge = graph.constant(f"merge_heads.{count * size}", np.array([0, 0, count * size], np.int64))
    factors = graph.constant(f"length_one.{size}", np.full(size, size**-0.5, np.float32))
    normal = graph.op(
        "SimplifiedLayerNormalization", graph.op("Reshape", x, split), factors,
        axis=-1, epsilon=_EPSILON / size, stash_type=1,
    )  # fmt: skip
    return graph.op("Reshape", normal, merge)
