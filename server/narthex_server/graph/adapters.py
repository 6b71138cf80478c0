"""Low-rank adapters beside the weights: factors and scales are inputs, so that they change while the graph runs.

y + (x A^T * s) B, after LoRA (https://arxiv.org/abs/2106.09685); s differs by row, token, module and rank, so that one
batch mixes adapters, and X-LoRA's scalings are the same input.
"""

import json
from typing import Protocol

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder

ADAPTED = "adapted"
"""The graph's note of what can be adapted: JSON [[module, kind, columns, rows], …] in the order of the scales."""


class Adapters(Protocol):
    """What a model adds to its linear layers."""

    def linear(self, module: str, x: ir.Value, y: ir.Value, columns: int, rows: int) -> ir.Value:
        """y [B, S, rows] of x [B, S, columns], adapted."""
        ...

    def embedding(self, module: str, tokens: ir.Value, y: ir.Value, vocab: int, hidden: int) -> ir.Value:
        """y [B, S, hidden] of tokens [B, S], adapted."""
        ...

    def head(self, module: str, x: ir.Value, y: ir.Value, columns: int, rows: int, chosen: ir.Value) -> ir.Value:
        """y [R, rows] of x [R, columns], which are the tokens of the step that `chosen` [R] names, adapted."""
        ...


class NoAdapters:
    """Adds nothing."""

    def linear(self, module: str, x: ir.Value, y: ir.Value, columns: int, rows: int) -> ir.Value:
        return y

    def embedding(self, module: str, tokens: ir.Value, y: ir.Value, vocab: int, hidden: int) -> ir.Value:
        return y

    def head(self, module: str, x: ir.Value, y: ir.Value, columns: int, rows: int, chosen: ir.Value) -> ir.Value:
        return y


class LowRankAdapters:
    """Adds stacked factors: inputs `module.a` [rank, columns] and `module.b` [rank, rows] hold those of all adapters.

    Modules of one kind (the q_proj of every layer) share an extent `rank.kind`, and `ranks.kind` [adapters, rank] says
    with 1 which ranks are an adapter's. `scales` [batch, steps, adapters] multiplies them; steps is 1 or S. If `apart`,
    each module has its own: [batch, steps, modules, adapters].
    """

    def __init__(self, graph: GraphBuilder, tokens: ir.Value, apart: bool) -> None:
        self._graph = graph
        self._tokens = tokens
        self._apart = apart
        extents = ("batch", "steps", "modules", "adapters") if apart else ("batch", "steps", "adapters")
        self._scales = graph.input("scales", ir.DataType.FLOAT, extents)
        self._modules: list[tuple[str, str, int, int]] = []

    def linear(self, module: str, x: ir.Value, y: ir.Value, columns: int, rows: int) -> ir.Value:
        factors = self._factors(module, columns, rows)
        reduced = self._graph.op("FusedMatMul", x, factors[0], domain=MICROSOFT, transB=1)
        return self._expand(y, reduced, self._scale(module), factors[1])

    def embedding(self, module: str, tokens: ir.Value, y: ir.Value, vocab: int, hidden: int) -> ir.Value:
        factors = self._factors(module, vocab, hidden)
        reduced = self._graph.op("Transpose", self._graph.op("Gather", factors[0], tokens, axis=1), perm=[1, 2, 0])
        return self._expand(y, reduced, self._scale(module), factors[1])

    def head(self, module: str, x: ir.Value, y: ir.Value, columns: int, rows: int, chosen: ir.Value) -> ir.Value:
        graph, factors = self._graph, self._factors(module, columns, rows)
        reduced = graph.op("FusedMatMul", x, factors[0], domain=MICROSOFT, transB=1)
        scale, one = self._scale(module), graph.constant("one_extent", np.array([1], np.int64))
        every = graph.op("Expand", scale, graph.op("Concat", graph.op("Shape", self._tokens), one, axis=0))
        rank = graph.op("Shape", factors[0], start=0, end=1)
        flat = graph.op("Concat", graph.constant("rest_extent", np.array([-1], np.int64)), rank, axis=0)
        return self._expand(
            y, reduced, graph.op("Gather", graph.op("Reshape", every, flat), chosen, axis=0), factors[1]
        )

    def _factors(self, module: str, columns: int, rows: int) -> tuple[ir.Value, ir.Value]:
        kind = kind_of(module)
        self._modules.append((module, kind, columns, rows))
        self._graph.note(ADAPTED, json.dumps(self._modules))
        rank = f"rank.{kind}"
        return (
            self._graph.input(f"{module}.a", ir.DataType.FLOAT, (rank, columns)),
            self._graph.input(f"{module}.b", ir.DataType.FLOAT, (rank, rows)),
        )

    def _scale(self, module: str) -> ir.Value:
        """The scale of every rank [B, steps, rank] in the module that was added last."""
        graph, kind = self._graph, kind_of(module)
        ranks = graph.shared(
            ("ranks", kind), lambda: graph.input(f"ranks.{kind}", ir.DataType.FLOAT, ("adapters", f"rank.{kind}"))
        )
        if not self._apart:
            return graph.shared(("scale", kind), lambda: graph.op("MatMul", self._scales, ranks))
        index = len(self._modules) - 1
        own = graph.op("Gather", self._scales, graph.constant(f"module.{index}", np.array(index, np.int64)), axis=2)
        return graph.op("MatMul", own, ranks)

    def _expand(self, y: ir.Value, reduced: ir.Value, scale: ir.Value, factor: ir.Value) -> ir.Value:
        graph = self._graph
        return graph.op("Add", y, graph.op("MatMul", graph.op("Mul", reduced, scale), factor))


def kind_of(module: str) -> str:
    """What modules of all layers have in common: `self_attn.q_proj` of `model.layers.3.self_attn.q_proj`."""
    parts = module.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[0] + 1 :]) if numbers else module
