"""Short causal convolutions over the tokens of a row."""

import onnx_ir as ir

from narthex_server.graph.builder import MICROSOFT, GraphBuilder
from narthex_server.graph.linear import vector
from narthex_server.weights.tensors import StoredTensor


def short_conv(
    graph: GraphBuilder, layer: int, x: ir.Value, weight: StoredTensor, bias: StoredTensor | None
) -> ir.Value:
    """Convolve each channel of x [B, S, channels] with its kernel, weight [channels, 1, width].

    The last width-1 tokens of a row [slots, width-1, channels] come in as `state.i` and go out as `new_state.i` for
    layer i; a row that is padded on the right would remember the padding.
    """
    channels, _, width = weight.shape
    name, shape = f"state.{layer}", ("slots", width - 1, channels)
    past = graph.input(name, ir.DataType.FLOAT, shape)
    result, present = graph.ops(
        "CausalConvWithState", x, vector(graph, weight), None if bias is None else vector(graph, bias), past,
        outputs=2, domain=MICROSOFT, channels_last=1,
    )  # fmt: skip
    graph.output(present, f"new_{name}", ir.DataType.FLOAT, shape)
    return result
