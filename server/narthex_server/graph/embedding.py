"""Token embeddings."""

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.linear import packing_of, quants, vector
from narthex_server.weights.tensors import StoredTensor


def embed(graph: GraphBuilder, tokens: ir.Value, table: StoredTensor) -> ir.Value:
    """Look tokens [B, S] up in table [vocab, hidden]; quantised values stay so and are shared with a tied head."""
    packing = packing_of(graph, table)
    if packing is None or packing.offsets is not None:
        return graph.op("Gather", vector(graph, table), tokens, axis=0)
    # The values are those of MatMulNBits, [vocab, blocks, …]; the operator wants as many dimensions of the scales.
    vocab, hidden = table.shape
    scales = graph.weight(
        f"{table.name}.block_scales", np.float32, (vocab, hidden // packing.block, 1),
        lambda: packing.scales(table.raw)[..., None],
    )  # fmt: skip
    blocks = graph.op(
        "GatherBlockQuantized", quants(graph, table, packing), tokens, scales,
        domain=MICROSOFT, gather_axis=0, quantize_axis=2, bits=packing.bits, block_size=packing.block,
    )  # fmt: skip
    return graph.op("Reshape", blocks, graph.constant("hidden", np.array([0, 0, hidden], np.int64)))
