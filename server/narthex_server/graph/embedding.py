"""Token embeddings."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.linear import packing_of, quants, vector
from narthex_server.weights.formats import Bytes, Floats
from narthex_server.weights.tensors import StoredTensor


def embed(graph: GraphBuilder, tokens: ir.Value, table: StoredTensor) -> ir.Value:
    """Look tokens [B, S] up in table [vocab, hidden]; quantised values stay so and are shared with a tied head."""
    packing = packing_of(graph, table)
    if packing is None:
        return graph.op("Gather", vector(graph, table), tokens, axis=0)
    # The values are those of MatMulNBits, [vocab, blocks, …]; the operator wants as many dimensions of the scales.
    vocab, hidden = table.shape

    def per_block(name: str, block: int, make: Callable[[Bytes], Floats]) -> ir.Value:
        shape = (vocab, hidden // block, 1)
        return graph.weight(f"{table.name}.{name}", np.float32, shape, lambda: make(table.raw)[..., None])

    values = graph.op(
        "GatherBlockQuantized", quants(graph, table, packing), tokens,
        per_block("block_scales", packing.block, packing.scales),
        domain=MICROSOFT, gather_axis=0, quantize_axis=2, bits=packing.bits, block_size=packing.block,
    )  # fmt: skip
    if (offsets := packing.offsets) is not None:
        added = per_block("block_offsets", offsets.block, offsets.values)
        if offsets.block != packing.block:
            into = np.array([0, 0, hidden // offsets.block, offsets.block], np.int64)
            values = graph.op("Reshape", values, graph.constant("offset_blocks", into))
        values = graph.op("Add", values, graph.op("Gather", added, tokens, axis=0))
    return graph.op("Reshape", values, graph.constant("merge_blocks", np.array([0, 0, hidden], np.int64)))
