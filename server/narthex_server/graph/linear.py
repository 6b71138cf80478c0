"""Matrix products with stored weights."""

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, Compute, GraphBuilder
from narthex_server.graph.channels import per_channel
from narthex_server.weights.formats import Packing
from narthex_server.weights.tensors import StoredTensor

_INT8_ACTIVATIONS = 4


def vector(graph: GraphBuilder, tensor: StoredTensor) -> ir.Value:
    """A stored tensor as a weight of real numbers."""
    return graph.weight(tensor.name, np.float32, tensor.shape, tensor.dense)


def packing_of(graph: GraphBuilder, weight: StoredTensor) -> Packing | None:
    """How the matrix is multiplied as it is stored; None where it is, or can only be, multiplied as real numbers."""
    return None if graph.compute is Compute.FLOAT32 else weight.format.packing


def quants(graph: GraphBuilder, weight: StoredTensor, packing: Packing) -> ir.Value:
    """The quantised values of a matrix, uint8 [rows, blocks, bytes of a block]."""
    shape = (weight.shape[0], weight.shape[-1] // packing.block, packing.block * packing.bits // 8)
    return graph.weight(f"{weight.name}.quants", np.uint8, shape, lambda: packing.quants(weight.raw))


def linear(graph: GraphBuilder, x: ir.Value, weight: StoredTensor, bias: StoredTensor | None = None) -> ir.Value:
    """x [..., columns] times the transpose of weight [rows, columns], plus bias [rows].

    x has three dimensions unless its shape is known to be another.
    """
    packing = packing_of(graph, weight)
    if graph.compute is Compute.INT8 or packing is None:
        if graph.compute is Compute.INT8:
            y = per_channel(graph, x, weight)
        else:
            y = graph.op("FusedMatMul", x, vector(graph, weight), domain=MICROSOFT, transB=1)
        return y if bias is None else graph.op("Add", y, vector(graph, bias))
    rows, columns = weight.shape
    blocks = (rows, columns // packing.block)
    y = graph.op(
        "MatMulNBits", x, quants(graph, weight, packing),
        graph.weight(f"{weight.name}.scales", np.float32, blocks, lambda: packing.scales(weight.raw)),
        None, None, None if bias is None else vector(graph, bias),
        domain=MICROSOFT, K=columns, N=rows, bits=packing.bits, block_size=packing.block,
        accuracy_level=_INT8_ACTIVATIONS,
    )  # fmt: skip
    if (offsets := packing.offsets) is None:
        return y
    # The offsets add the sum of x over each block times the block's offset: 1/32 of the work. MatMulNBits itself takes
    # float zero points only on a path that is 85 times slower.
    shape = (rows, columns // offsets.block)
    table = graph.weight(f"{weight.name}.offsets", np.float32, shape, lambda: offsets.values(weight.raw))
    sums = graph.shared((x, offsets.block), lambda: _block_sums(graph, x, columns // offsets.block, offsets.block))
    return graph.op("Add", y, graph.op("FusedMatMul", sums, table, domain=MICROSOFT, transB=1))


def _block_sums(graph: GraphBuilder, x: ir.Value, blocks: int, block: int) -> ir.Value:
    """Sum x [..., columns] over blocks of columns, [..., columns/block].

    A product with ones, because ReduceSum gives no rows a wrong shape; Einsum has no bfloat16, but no graph that is not
    in float32 runs without rows.
    """
    leading = len(x.shape) - 1 if x.shape is not None else 2
    extents = np.array([0] * leading + [blocks, block], np.int64)
    split = graph.constant(f"split.{leading}.{blocks}.{block}", extents)
    if graph.dtype != ir.DataType.FLOAT:
        last = graph.constant("last_axis", np.array([-1], np.int64))
        return graph.op("ReduceSum", graph.op("Reshape", x, split), last, keepdims=0)
    ones = graph.constant(f"ones.{block}", np.ones(block, np.float32))
    return graph.op("Einsum", graph.op("Reshape", x, split), ones, equation="...bk,k->...b")
