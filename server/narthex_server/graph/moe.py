"""Mixtures of experts: routing weights, and the sum of the experts that a token chose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.linear import linear, packing_of
from narthex_server.graph.mlp import gated
from narthex_server.weights.formats import Packing
from narthex_server.weights.tensors import StoredTensor

_INT8_ACTIVATIONS = 4
_ROWS_IN_TURN = 1


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert: gate and up [width, hidden], down [hidden, width]."""

    gate: StoredTensor
    up: StoredTensor
    down: StoredTensor


def softmax_routing(graph: GraphBuilder, logits: ir.Value, chosen: int, normalised: bool) -> ir.Value:
    """Probabilities of the `chosen` most likely experts, 0 for others, [T, experts]; their sum is 1 if normalised."""
    scores = graph.op("Softmax", logits, axis=-1)
    return routing(graph, scores, scores, chosen, normalised)


def routing(
    graph: GraphBuilder, scores: ir.Value, weights: ir.Value, chosen: int, normalised: bool, epsilon: float = 0.0
) -> ir.Value:
    """Keep the weights of the `chosen` experts of the highest scores, [T, experts], over their sum + epsilon or not."""
    count = graph.constant(f"chosen.{chosen}", np.array([chosen], np.int64))
    _, indices = graph.ops("TopK", scores, count, outputs=2)
    kept = graph.op("GatherElements", weights, indices, axis=1)
    if normalised:
        total = graph.op("ReduceSum", kept, graph.constant("last_axis", np.array([-1], np.int64)), keepdims=1)
        if epsilon:
            total = graph.op("Add", total, graph.constant(f"epsilon.{epsilon!r}", np.array(epsilon, np.float32)))
        kept = graph.op("Div", kept, total)
    zeros = graph.op("ConstantOfShape", graph.op("Shape", weights))
    return graph.op("ScatterElements", zeros, indices, kept, axis=1)


def mixture(
    graph: GraphBuilder, x: ir.Value, weights: ir.Value, experts: Sequence[Expert], chosen: int, activation: str
) -> ir.Value:
    """Sum down(activation(gate(x)) * up(x)) of the experts by their weights [T, experts], for x [B, S, hidden].

    SiLU experts in blocks without offsets that are alike in all of them are one operator. Others are products of their
    own, each for the tokens that chose the expert: in float32 that is up to three times as fast as the MoE operator.
    """
    hidden = experts[0].gate.shape[1]
    rows = _matrix(graph.op("Reshape", x, graph.constant(f"rows.{hidden}", np.array([-1, hidden], np.int64))), hidden)
    packings = {packing_of(graph, matrix) for expert in experts for matrix in (expert.gate, expert.up, expert.down)}
    packing = next(iter(packings))
    if packing is None or packing.offsets is not None or len(packings) > 1 or activation != "silu":
        mixed = _one_by_one(graph, rows, weights, experts, activation)
    else:
        mixed = _packed(graph, rows, weights, experts, chosen, packing)
    return graph.op("Reshape", mixed, graph.op("Shape", x))


def _packed(
    graph: GraphBuilder, x: ir.Value, weights: ir.Value, experts: Sequence[Expert], chosen: int, packing: Packing
) -> ir.Value:
    bits, block = packing.bits, packing.block
    gate_up, down = _joined(
        graph, experts, "quants", np.uint8, lambda columns: columns * bits // 8,
        lambda tensor: packing.quants(tensor.raw).reshape(len(tensor.raw), -1),
    )  # fmt: skip
    gate_up_scales, down_scales = _joined(
        graph, experts, "scales", np.float32, lambda columns: columns // block,
        lambda tensor: packing.scales(tensor.raw),
    )  # fmt: skip
    neither_biases_nor_third_matrices_nor_zero_points = (None,) * 7
    return graph.op(
        "QMoE", x, weights, gate_up, gate_up_scales, None, down, down_scales,
        *neither_biases_nor_third_matrices_nor_zero_points, weights,
        domain=MICROSOFT, k=chosen, normalize_routing_weights=0, expert_weight_bits=bits, block_size=block,
        accuracy_level=_INT8_ACTIVATIONS, activation_type="swiglu", activation_alpha=1.0, activation_beta=0.0,
        swiglu_fusion=_ROWS_IN_TURN,
    )  # fmt: skip


def _one_by_one(
    graph: GraphBuilder, x: ir.Value, weights: ir.Value, experts: Sequence[Expert], activation: str
) -> ir.Value:
    first = graph.constant("first_axis", np.array([0], np.int64))
    column = graph.constant("column", np.array([-1, 1], np.int64))
    by_expert = graph.op("Transpose", weights, perm=[1, 0])
    total = graph.op("ConstantOfShape", graph.op("Shape", x))
    for index, expert in enumerate(experts):
        mine = graph.op("Gather", by_expert, graph.constant(f"expert.{index}", np.array(index, np.int64)), axis=0)
        tokens = graph.op("Squeeze", graph.op("NonZero", mine), first)
        theirs = _matrix(graph.op("Gather", x, tokens, axis=0), expert.gate.shape[1])
        gate, up = linear(graph, theirs, expert.gate), linear(graph, theirs, expert.up)
        inner = _matrix(gated(graph, gate, up, activation), expert.down.shape[1])
        weight = graph.op("Reshape", graph.op("Gather", mine, tokens, axis=0), column)
        result = graph.op("Mul", linear(graph, inner, expert.down), weight)
        total = graph.op("ScatterND", total, graph.op("Reshape", tokens, column), result, reduction="add")
    return total


def _matrix(value: ir.Value, columns: int) -> ir.Value:
    """Note that the value is [any number of rows, columns]."""
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((None, columns))
    return value


def _joined(
    graph: GraphBuilder, experts: Sequence[Expert], kind: str, dtype: type[np.generic],
    width: Callable[[int], int], read: Callable[[StoredTensor], NDArray[np.generic]],
) -> tuple[ir.Value, ir.Value]:  # fmt: skip
    """Rows of gate and up in turn, and those of down, of every expert: two weights [experts, rows, width(columns)].

    `read` gives the part of a matrix that is wanted, [rows, width(columns)]; one expert at a time is read.
    """
    first = experts[0]
    inner, hidden = first.gate.shape

    def gate_up() -> NDArray[np.generic]:
        joined = np.empty((len(experts), inner, 2, width(hidden)), dtype)
        for target, expert in zip(joined, experts, strict=True):
            target[:, 0], target[:, 1] = read(expert.gate), read(expert.up)
        return joined.reshape(len(experts), 2 * inner, -1)

    def down() -> NDArray[np.generic]:
        joined = np.empty((len(experts), hidden, width(inner)), dtype)
        for target, expert in zip(joined, experts, strict=True):
            target[:] = read(expert.down)
        return joined

    return (
        graph.weight(f"{first.gate.name}.and_others.{kind}", dtype, (len(experts), 2 * inner, width(hidden)), gate_up),
        graph.weight(f"{first.down.name}.and_others.{kind}", dtype, (len(experts), hidden, width(inner)), down),
    )
