"""RMS and layer normalisation."""

import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.linear import vector
from narthex_server.weights.tensors import StoredTensor


def rms_norm(graph: GraphBuilder, x: ir.Value, weight: StoredTensor, epsilon: float) -> ir.Value:
    """Normalise over the last axis."""
    return graph.op("SimplifiedLayerNormalization", x, vector(graph, weight), axis=-1, epsilon=epsilon, stash_type=1)


def add_rms_norm(
    graph: GraphBuilder, x: ir.Value, residual: ir.Value, weight: StoredTensor, epsilon: float
) -> tuple[ir.Value, ir.Value]:
    """Return the normalised sum, and the sum itself to go on with."""
    normal, _, _, total = graph.ops(
        "SkipSimplifiedLayerNormalization", x, residual, vector(graph, weight),
        outputs=4, domain=MICROSOFT, epsilon=epsilon,
    )  # fmt: skip
    return normal, total


def layer_norm(
    graph: GraphBuilder, x: ir.Value, weight: StoredTensor, bias: StoredTensor | None, epsilon: float
) -> ir.Value:
    """Centre and normalise over the last axis."""
    shift = None if bias is None else vector(graph, bias)
    return graph.op("LayerNormalization", x, vector(graph, weight), shift, axis=-1, epsilon=epsilon, stash_type=1)


def add_layer_norm(
    graph: GraphBuilder, x: ir.Value, residual: ir.Value, weight: StoredTensor, bias: StoredTensor, epsilon: float
) -> ir.Value:
    """Normalise the sum."""
    return graph.op(
        "SkipLayerNormalization", x, residual, vector(graph, weight), vector(graph, bias),
        domain=MICROSOFT, epsilon=epsilon,
    )  # fmt: skip
