"""Token embeddings."""

import numpy as np
import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, Compute, GraphBuilder
from narthex_server.graph.linear import quants, vector
from narthex_server.weights.tensors import StoredTensor


def embed(graph: GraphBuilder, tokens: ir.Value, table: StoredTensor) -> ir.Value:
    """Look tokens [B, S] up in table [vocab, hidden]; a quantised table stays quantised, which shares it with a tied head."""
    packed = table.packed() if graph.compute is Compute.BLOCK8 else None
    if packed is None or packed.offset is not None:
        return graph.op("Gather", vector(graph, table), tokens, axis=0)
    # The operator wants as many dimensions of scales as of values; the values [vocab, blocks, …] are those of MatMulNBits.
    scales = graph.constant(f"{table.name}.block_scales", packed.scales[..., None])
    blocks = graph.op(
        "GatherBlockQuantized", quants(graph, table, packed), tokens, scales,
        domain=MICROSOFT, gather_axis=0, quantize_axis=2, bits=packed.bits, block_size=packed.block,
    )  # fmt: skip
    return graph.op("Reshape", blocks, graph.constant("hidden", np.array([0, 0, table.shape[1]], np.int64)))
