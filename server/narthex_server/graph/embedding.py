"""Token embeddings."""

import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, Compute, GraphBuilder
from narthex_server.graph.linear import packed_weight, vector
from narthex_server.weights.tensors import StoredTensor


def embed(graph: GraphBuilder, tokens: ir.Value, table: StoredTensor) -> ir.Value:
    """Look tokens [B, S] up in table [vocab, hidden]; a quantised table stays quantised, which shares it with a tied head."""
    packed = table.packed() if graph.compute is Compute.BLOCK8 else None
    if packed is None or packed.offset is not None:
        return graph.op("Gather", vector(graph, table), tokens, axis=0)
    quants, scales = packed_weight(graph, table, packed)
    return graph.op(
        "GatherBlockQuantized", quants, tokens, scales,
        domain=MICROSOFT, gather_axis=0, quantize_axis=1, bits=packed.bits, block_size=packed.block,
    )  # fmt: skip
