"""Whole texts side by side, right-padded: their places, and attention that sees none of the padding."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.linear import vector
from narthex_server.weights.tensors import StoredTensor


@dataclass(frozen=True, slots=True)
class Texts:
    """A batch: tokens int64 [B, S], and lengths int32 [B], how many of each row are not padding."""

    tokens: ir.Value
    lengths: ir.Value

    @classmethod
    def declare(cls, graph: GraphBuilder) -> "Texts":
        """Declare the inputs of an encoder."""
        tokens = graph.input("tokens", ir.DataType.INT64, ("batch", "length"))
        return cls(tokens, graph.input("lengths", ir.DataType.INT32, ("batch",)))


def extent(graph: GraphBuilder, tokens: ir.Value) -> ir.Value:
    """S of tokens [B, S], as a vector of one."""
    return graph.shared("extent", lambda: graph.op("Shape", tokens, start=1))


def span(graph: GraphBuilder, tokens: ir.Value) -> ir.Value:
    """The numbers 0 to S-1, [S]."""

    def made() -> ir.Value:
        zero, one = graph.constant("zero", np.array(0, np.int64)), graph.constant("one", np.array(1, np.int64))
        scalar = graph.constant("scalar", np.array([], np.int64))
        return graph.op("Range", zero, graph.op("Reshape", extent(graph, tokens), scalar), one)

    return graph.shared("span", made)


def learned_places(graph: GraphBuilder, tokens: ir.Value, table: StoredTensor, first: int) -> ir.Value:
    """The vectors [S, hidden] of the places in every text; that of its first token is row `first` of the table."""
    start = graph.constant("first_place", np.array([first], np.int64))
    end = graph.op("Add", extent(graph, tokens), start)
    axis = graph.constant("first_axis", np.array([0], np.int64))
    return graph.op("Slice", vector(graph, table), start, end, axis)


def full_attention(
    graph: GraphBuilder, query: ir.Value, key: ir.Value, value: ir.Value, heads: int, texts: Texts,
    bias: ir.Value | None = None, scale: float | None = None,
) -> ir.Value:  # fmt: skip
    """Every token sees every token of its text, [B, S, hidden]; `bias` [1, 1 or heads, S, S] is added to the scores.

    `scale` defaults to the inverse root of a head's size.
    """
    options = {} if scale is None else {"scale": scale}
    return graph.op(
        "MultiHeadAttention", query, key, value, None, texts.lengths, bias,
        domain=MICROSOFT, num_heads=heads, **options,
    )  # fmt: skip
