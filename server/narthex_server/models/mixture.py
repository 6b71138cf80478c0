"""The decoder of the families that mix experts."""

from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from narthex_server.graph.mlp import Gating, Swiglu, gated
from narthex_server.graph.moe import Expert, mixture, softmax_routing
from narthex_server.models.base import Decoder, Mixture
from narthex_server.weights.tensors import StoredTensor


class MixtureDecoder(Decoder):
    """A decoder whose feed-forward is a mixture of experts in the layers that the config says."""

    router = "gate"

    def feed(self, layer: int, x: ir.Value) -> ir.Value:
        config, mixed = self.config, self.config.mixture
        if mixed is None or layer not in mixed.layers:
            return super().feed(layer, x)
        prefix = f"model.layers.{layer}.{self.feed_forward[0]}"
        logits = self.project(f"{prefix}.{self.router}", x, config.hidden, mixed.count)
        flat = self.graph.constant(f"router.{mixed.count}", np.array([-1, mixed.count], np.int64))
        weights = self.route(prefix, self.graph.op("Reshape", logits, flat), mixed)
        experts = self.experts(f"{prefix}.experts", mixed)
        return mixture(self.graph, x, weights, experts, mixed.chosen, self.gating())

    def gating(self) -> Gating:
        """What an expert does between its projections."""
        activation = self.config.activation
        return Swiglu() if activation == "silu" else partial(gated, activation=activation)

    def route(self, prefix: str, logits: ir.Value, mixed: Mixture) -> ir.Value:
        """Weights [T, experts] from the router's logits."""
        return softmax_routing(self.graph, logits, mixed.chosen, mixed.normalised)

    def experts(self, prefix: str, mixed: Mixture) -> list[Expert]:
        """The experts of a layer, whether files keep a matrix each, one for all, or gate and up as one for all too."""
        hidden, width, (_, *names) = self.config.hidden, mixed.width, self.feed_forward
        if self.find(f"{prefix}.gate_up_proj"):
            joined = self.tensor(f"{prefix}.gate_up_proj", mixed.count, 2 * width, hidden)
            halves = replace(joined, shape=(2 * mixed.count, width, hidden))
            down = self.tensor(f"{prefix}.down_proj", mixed.count, hidden, width)
            return [Expert(halves.part(2 * i), halves.part(2 * i + 1), down.part(i)) for i in range(mixed.count)]
        shapes = ((width, hidden), (width, hidden), (hidden, width))
        matrices = [self.matrices(prefix, name, mixed.count, *shape) for name, shape in zip(names, shapes, strict=True)]
        return [Expert(*parts) for parts in zip(*matrices, strict=True)]

    def matrices(self, prefix: str, name: str, count: int, rows: int, columns: int) -> list[StoredTensor]:
        """One matrix [rows, columns] of each expert."""
        if self.find(f"{prefix}.{name}.weight"):
            stacked = self.tensor(f"{prefix}.{name}.weight", count, rows, columns)
            return [stacked.part(index) for index in range(count)]
        return [self.tensor(f"{prefix}.{index}.{name}.weight", rows, columns) for index in range(count)]
