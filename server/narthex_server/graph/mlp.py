"""The gated feed-forward layer."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder

Activation = Callable[[GraphBuilder, ir.Value], ir.Value]

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "silu": lambda graph, x: graph.op("QuickGelu", x, domain=MICROSOFT, alpha=1.0),
        "gelu": lambda graph, x: graph.op("Gelu", x),
        "gelu_pytorch_tanh": lambda graph, x: graph.op("Gelu", x, approximate="tanh"),
        "gelu_new": lambda graph, x: graph.op("Gelu", x, approximate="tanh"),
        "relu": lambda graph, x: graph.op("Relu", x),
    }
)


def gated(graph: GraphBuilder, gate: ir.Value, up: ir.Value, activation: str) -> ir.Value:
    """activation(gate) * up."""
    return graph.op("Mul", ACTIVATIONS[activation](graph, gate), up)
