"""Constant factors, and soft bounds, on hidden states and logits."""

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import GraphBuilder


def scaled(graph: GraphBuilder, x: ir.Value, factor: float) -> ir.Value:
    """x * factor."""
    return x if factor == 1.0 else graph.op("Mul", x, _constant(graph, factor))


def softcapped(graph: GraphBuilder, x: ir.Value, cap: float) -> ir.Value:
    """cap * tanh(x / cap), which is x where |x| is small; 0 caps nothing."""
    if cap == 0.0:
        return x
    return scaled(graph, graph.op("Tanh", scaled(graph, x, 1.0 / cap)), cap)


def _constant(graph: GraphBuilder, factor: float) -> ir.Value:
    return graph.constant(f"factor.{factor!r}", np.array(factor, np.float32))
