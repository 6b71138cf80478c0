"""Matrix products of integers: int8 weights with a scale for each output channel, uint8 activations with one a token.

The scales are the absolute maxima, of a channel's weights and of a token's values, over 127, so that no token has a say
in how another one is rounded. The kernel is fast only for unsigned times signed values.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.weights.tensors import StoredTensor

_LARGEST = 127
_ZERO = 128


def per_channel(graph: GraphBuilder, x: ir.Value, weight: StoredTensor) -> ir.Value:
    """x [..., columns] times the transpose of weight [rows, columns]; x as `linear` takes it."""
    rows, columns = weight.shape
    found: list[NDArray[np.float32]] = []  # by the first of the two, so that the weight is made once

    def whole() -> NDArray[np.int8]:
        values = weight.dense()
        found.append(steps(values))
        return rounded(values, found[0]).T.copy()

    def channel() -> NDArray[np.float32]:
        return (found[0] if found else steps(weight.dense())) / np.float32(_LARGEST)

    unit, zero = _unit_and_zero(graph)
    largest = graph.shared((x, "largest"), lambda: _largest(graph, x))
    product = graph.op(
        "MatMulIntegerToFloat", graph.shared((x, "whole"), lambda: _whole(graph, x, largest)),
        graph.weight(f"{weight.name}.whole", np.int8, (columns, rows), whole),
        unit,
        graph.weight(f"{weight.name}.channel", np.float32, (rows,), channel),
        zero,
        domain=MICROSOFT,
    )  # fmt: skip
    return graph.op("Mul", product, largest)


def steps(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What one unit of a channel's integers means, [rows]."""
    found: NDArray[np.float32] = np.abs(values).max(axis=1) / np.float32(_LARGEST)
    return found


def rounded(values: NDArray[np.float32], units: NDArray[np.float32]) -> NDArray[np.int8]:
    """The channels as integers between -127 and 127, [rows, columns]."""
    units = np.where(units > 0, units, np.float32(1))[:, None]
    whole: NDArray[np.int8] = np.rint(values / units).astype(np.int8)
    return whole


def _largest(graph: GraphBuilder, x: ir.Value) -> ir.Value:
    """The absolute maximum of each token, [..., 1]."""
    last = len(x.shape) - 1 if x.shape is not None else 2  # counted from behind, ReduceMax gives no rows a wrong shape
    axis = graph.constant(f"axis.{last}", np.array([last], np.int64))
    return graph.op("ReduceMax", graph.op("Abs", x), axis, keepdims=1)


def _whole(graph: GraphBuilder, x: ir.Value, largest: ir.Value) -> ir.Value:
    """The tokens as integers between 1 and 255, zero is 128; a token of zeros becomes anything, its scale being 0."""
    scale = graph.op("Div", graph.constant("largest", np.array(_LARGEST, np.float32)), largest)
    return graph.op("QuantizeLinear", graph.op("Mul", x, scale), *_unit_and_zero(graph))


def _unit_and_zero(graph: GraphBuilder) -> tuple[ir.Value, ir.Value]:
    return graph.constant("unit", np.array(1, np.float32)), graph.constant("zero_point", np.array(_ZERO, np.uint8))
