"""The gated feed-forward layer."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder

Activation = Callable[[GraphBuilder, ir.Value], ir.Value]
Gating = Callable[[GraphBuilder, ir.Value, ir.Value], ir.Value]
"""From gate and up to what goes into down."""

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


@dataclass(frozen=True, slots=True)
class Swiglu:
    """g * sigmoid(alpha * g) * (u + beta), where g is gate but at most `limit`, and u is up but within +-limit.

    Without arguments it is silu(gate) * up. The operators for mixtures of experts have just this.
    """

    alpha: float = 1.0
    beta: float = 0.0
    limit: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha) or (self.limit is not None and not 0 < self.limit < math.inf):
            raise ValueError(f"a gate cannot be clamped to {self.limit}, or its sigmoid scaled by {self.alpha}")

    def __call__(self, graph: GraphBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        if self.limit is not None:
            most = graph.constant("swiglu.most", np.array(self.limit, np.float32))
            least = graph.constant("swiglu.least", np.array(-self.limit, np.float32))
            gate, up = graph.op("Clip", gate, None, most), graph.op("Clip", up, least, most)
        if self.beta:
            up = graph.op("Add", up, graph.constant("swiglu.beta", np.array(self.beta, np.float32)))
        return graph.op("Mul", graph.op("QuickGelu", gate, domain=MICROSOFT, alpha=self.alpha), up)
