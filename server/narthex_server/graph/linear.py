"""Matrix products with stored weights."""

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, Compute, GraphBuilder
from narthex_server.weights.formats import Packed
from narthex_server.weights.tensors import StoredTensor

_INT8_ACTIVATIONS = 4


def vector(graph: GraphBuilder, tensor: StoredTensor) -> ir.Value:
    """A stored tensor as a float32 constant."""
    return graph.weight(tensor.name, np.float32, tensor.shape, tensor.dense)


def linear(graph: GraphBuilder, x: ir.Value, weight: StoredTensor, bias: StoredTensor | None = None) -> ir.Value:
    """x [..., columns] times the transpose of weight [rows, columns], plus bias [rows]."""
    packed = weight.packed() if graph.compute is Compute.BLOCK8 else None
    if packed is None:
        y = graph.op("FusedMatMul", x, vector(graph, weight), domain=MICROSOFT, transB=1)
        return y if bias is None else graph.op("Add", y, vector(graph, bias))
    y = _block_product(graph, x, weight, packed, bias)
    return y if packed.offset is None else graph.op("Add", y, _offset_product(graph, x, weight, packed))


def quants(graph: GraphBuilder, weight: StoredTensor, packed: Packed) -> ir.Value:
    """The quantised values of a matrix, uint8 [rows, blocks, bytes of a block]."""
    return graph.constant(f"{weight.name}.quants", packed.weight)


def _block_product(
    graph: GraphBuilder, x: ir.Value, weight: StoredTensor, packed: Packed, bias: StoredTensor | None
) -> ir.Value:
    rows, columns = weight.shape
    return graph.op(
        "MatMulNBits", x, quants(graph, weight, packed), graph.constant(f"{weight.name}.scales", packed.scales),
        None, None, None if bias is None else vector(graph, bias),
        domain=MICROSOFT, K=columns, N=rows, bits=packed.bits, block_size=packed.block,
        accuracy_level=_INT8_ACTIVATIONS,
    )  # fmt: skip


def _offset_product(graph: GraphBuilder, x: ir.Value, weight: StoredTensor, packed: Packed) -> ir.Value:
    """What the blocks' offsets add: the sum of x over each block times the block's offset.

    MatMulNBits takes float zero points only on a path that is 85 times slower; this product is 1/32 of the work.
    """
    def sums() -> ir.Value:
        split = graph.constant(f"split.{packed.block}", np.array([0, 0, -1, packed.block], np.int64))
        last = graph.constant("last_axis", np.array([-1], np.int64))
        return graph.op("ReduceSum", graph.op("Reshape", x, split), last, keepdims=0)

    assert packed.offset is not None
    offsets = graph.constant(f"{weight.name}.offsets", packed.offset)
    return graph.op("FusedMatMul", graph.shared((x, packed.block), sums), offsets, domain=MICROSOFT, transB=1)
