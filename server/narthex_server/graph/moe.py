"""Mixtures of experts: routing weights, and the sum of the experts that a token chose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.linear import linear, packing_of
from narthex_server.graph.mlp import Gating, Swiglu
from narthex_server.weights.formats import Bytes, Floats, Packing
from narthex_server.weights.tensors import StoredTensor

_INT8_ACTIVATIONS = 4
_ROUNDED_BLOCK = 32
_FEW = 8
"""How many experts may be products of their own, which in float32 are faster than the operator by 1.2 to 3.6 times.

ONNX Runtime plans memory in time quadratic in the nodes: 12 layers of 128 such experts would start in 100 seconds.
"""


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert: gate and up [width, hidden], down [hidden, width], and the biases of the three or none."""

    gate: StoredTensor
    up: StoredTensor
    down: StoredTensor
    biases: tuple[StoredTensor, StoredTensor, StoredTensor] | None = None


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
    graph: GraphBuilder, x: ir.Value, weights: ir.Value, experts: Sequence[Expert], chosen: int, gating: Gating
) -> ir.Value:
    """Sum down(gating(gate(x), up(x))) of the experts by their weights [T, experts], for x [B, S, hidden].

    Alike blocks without offsets are one operator. Other matrices are products of the tokens that chose the expert where
    the experts are few; where they are many, they are rounded to blocks that are alike, or one operator in float32.
    """
    hidden, width = experts[0].down.shape
    rows = _matrix(graph.op("Reshape", x, graph.constant(f"rows.{hidden}", np.array([-1, hidden], np.int64))), hidden)
    packings = {packing_of(graph, matrix) for expert in experts for matrix in (expert.gate, expert.up, expert.down)}
    packing = next(iter(packings))
    alike = len(packings) == 1 and packing is not None and packing.offsets is None
    if not isinstance(gating, Swiglu) or (not alike and len(experts) <= _FEW):
        mixed = _one_by_one(graph, rows, weights, experts, gating)
    elif alike and packing is not None:
        mixed = _packed(graph, rows, weights, experts, chosen, gating, lambda matrix: packing)
    elif packings == {None} or hidden % _ROUNDED_BLOCK or width % _ROUNDED_BLOCK:
        mixed = _dense(graph, rows, weights, experts, chosen, gating)
    else:
        mixed = _packed(graph, rows, weights, experts, chosen, gating, _rounded)
    return graph.op("Reshape", mixed, graph.op("Shape", x))


def _packed(
    graph: GraphBuilder, x: ir.Value, weights: ir.Value, experts: Sequence[Expert], chosen: int, swiglu: Swiglu,
    packing: Callable[[StoredTensor], Packing],
) -> ir.Value:  # fmt: skip
    bits, block = packing(experts[0].gate).bits, packing(experts[0].gate).block
    gate_up, down = _joined(
        graph, experts, "quants", np.uint8, lambda columns: columns * bits // 8,
        lambda matrix: packing(matrix).quants(matrix.raw).reshape(len(matrix.raw), -1),
    )  # fmt: skip
    gate_up_scales, down_scales = _joined(
        graph, experts, "scales", np.float32, lambda columns: columns // block,
        lambda matrix: packing(matrix).scales(matrix.raw),
    )  # fmt: skip
    gate_up_bias, down_bias = _biases(graph, experts)
    neither_third_matrices_nor_zero_points = (None,) * 6
    return graph.op(
        "QMoE", x, weights, gate_up, gate_up_scales, gate_up_bias, down, down_scales, down_bias,
        *neither_third_matrices_nor_zero_points, weights,
        domain=MICROSOFT, k=chosen, normalize_routing_weights=0, expert_weight_bits=bits, block_size=block,
        accuracy_level=_INT8_ACTIVATIONS, **_spelled(swiglu),
    )  # fmt: skip


def _rounded(matrix: StoredTensor) -> Packing:
    """Any format as eight bits in blocks, within 1/254 of the largest value of a block."""

    def blocks(raw: Bytes) -> Floats:
        return matrix.format.dense(raw).reshape(len(raw), -1, _ROUNDED_BLOCK)

    def scales(raw: Bytes) -> Floats:
        return np.asarray(np.abs(blocks(raw)).max(axis=-1) / 127)

    def quants(raw: Bytes) -> Bytes:
        step = np.maximum(scales(raw), np.finfo(np.float32).tiny)
        return np.rint(blocks(raw) / step[..., None] + 128).astype(np.uint8)

    return Packing(8, _ROUNDED_BLOCK, quants, scales)


def _dense(
    graph: GraphBuilder, x: ir.Value, weights: ir.Value, experts: Sequence[Expert], chosen: int, swiglu: Swiglu
) -> ir.Value:
    """The operator takes the softmax of its second input over the chosen ones: hence the logarithm, and the factor."""
    gate_up, down = _joined(graph, experts, "values", np.float32, lambda columns: columns, StoredTensor.dense)
    gate_up_bias, down_bias = _biases(graph, experts)
    mixed = graph.op(
        "MoE", x, graph.op("Log", weights), gate_up, gate_up_bias, down, down_bias,
        domain=MICROSOFT, k=chosen, normalize_routing_weights=1, **_spelled(swiglu),
    )  # fmt: skip
    last = graph.constant("last_axis", np.array([-1], np.int64))
    return graph.op("Mul", mixed, graph.op("ReduceSum", weights, last, keepdims=1))


def _one_by_one(
    graph: GraphBuilder, x: ir.Value, weights: ir.Value, experts: Sequence[Expert], gating: Gating
) -> ir.Value:
    first = graph.constant("first_axis", np.array([0], np.int64))
    column = graph.constant("column", np.array([-1, 1], np.int64))
    by_expert = graph.op("Transpose", weights, perm=[1, 0])
    total = graph.op("ConstantOfShape", graph.op("Shape", x))
    for index, expert in enumerate(experts):
        mine = graph.op("Gather", by_expert, graph.constant(f"expert.{index}", np.array(index, np.int64)), axis=0)
        tokens = graph.op("Squeeze", graph.op("NonZero", mine), first)
        theirs = _matrix(graph.op("Gather", x, tokens, axis=0), expert.gate.shape[1])
        gate_bias, up_bias, down_bias = expert.biases or (None, None, None)
        gate, up = linear(graph, theirs, expert.gate, gate_bias), linear(graph, theirs, expert.up, up_bias)
        inner = _matrix(gating(graph, gate, up), expert.down.shape[1])
        weight = graph.op("Reshape", graph.op("Gather", mine, tokens, axis=0), column)
        result = graph.op("Mul", linear(graph, inner, expert.down, down_bias), weight)
        total = graph.op("ScatterND", total, graph.op("Reshape", tokens, column), result, reduction="add")
    return total


def _spelled(swiglu: Swiglu) -> dict[str, int | float | str]:
    """The operators' attributes; on the CPU they want rows of gate and up in turn (fusion 1)."""
    limit = {} if swiglu.limit is None else {"swiglu_limit": swiglu.limit}
    return {
        "activation_type": "swiglu", "activation_alpha": swiglu.alpha, "activation_beta": swiglu.beta,
        "swiglu_fusion": 1, **limit,
    }  # fmt: skip


def _biases(graph: GraphBuilder, experts: Sequence[Expert]) -> tuple[ir.Value | None, ir.Value | None]:
    """Those of gate and up in turn [experts, 2 * width], and of down [experts, hidden]."""
    biases = [expert.biases for expert in experts if expert.biases]
    if not biases:
        return None, None
    hidden, width = experts[0].down.shape

    def gate_up() -> NDArray[np.generic]:
        both = [np.stack((gate.dense(), up.dense()), axis=-1) for gate, up, _ in biases]
        return np.stack(both).reshape(len(biases), 2 * width)

    return (
        graph.weight(f"{biases[0][0].name}.and_others", np.float32, (len(biases), 2 * width), gate_up),
        graph.weight(
            f"{biases[0][2].name}.and_others", np.float32, (len(biases), hidden),
            lambda: np.stack([down.dense() for _, _, down in biases]),
        ),
    )  # fmt: skip


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
