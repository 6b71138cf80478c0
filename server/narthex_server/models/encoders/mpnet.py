"""MPNet: a RoBERTa without token types that adds a learned bias for the distance of two tokens to every score."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.graph.builder import GraphBuilder
from narthex_server.graph.padded import Texts, span
from narthex_server.models.encoders import roberta
from narthex_server.models.encoders.base import Encoder, EncoderConfig, Fields, Names
from narthex_server.weights.tensors import WeightSource

_FARTHEST = 128
"""From here on all distances are in the last bucket."""
_BIAS = "encoder.relative_attention_bias.weight"
_NAMES = Names(
    query="attention.attn.q", key="attention.attn.k", value="attention.attn.v", mixed="attention.attn.o",
    mixed_norm="attention.LayerNorm",
)  # fmt: skip


def buckets(distances: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The bucket of each distance, key less query: half of them for either side, exact when near, then logarithmic."""
    side = count // 2
    exact = side // 2
    away = np.abs(distances)
    steps = np.log(np.maximum(away, exact) / exact) / np.log(_FARTHEST / exact) * (side - exact)
    far = np.minimum(exact + steps.astype(np.int64), side - 1)
    return np.where(distances > 0, side, 0) + np.where(away < exact, away, far)


class MpnetEncoder(Encoder):
    """An Encoder with that bias."""

    def bias(self, texts: Texts) -> ir.Value:
        graph, last = self.graph, self.max_len - 1
        tensor = self.weights.find(f"{self.prefix}{_BIAS}")
        if tensor is None or len(tensor.shape) != 2 or tensor.shape[1] != self.config.heads:
            raise InvalidModelFile(f"tensor {self.prefix}{_BIAS} is missing or not [buckets, {self.config.heads}]")

        def by_distance() -> NDArray[np.float32]:
            return np.ascontiguousarray(tensor.dense()[buckets(np.arange(-last, last + 1), tensor.shape[0])].T)

        table = graph.weight("distances", np.float32, (self.config.heads, 2 * last + 1), by_distance)
        places = span(graph, texts.tokens)
        rows, columns = (graph.constant(f"axis.{axis}", np.array([axis], np.int64)) for axis in (1, 0))
        distance = graph.op("Sub", graph.op("Unsqueeze", places, columns), graph.op("Unsqueeze", places, rows))
        index = graph.op("Add", distance, graph.constant("nearest", np.array(last, np.int64)))
        return graph.op("Unsqueeze", graph.op("Gather", table, index, axis=1), columns)


def parse(fields: Fields) -> EncoderConfig:
    """Read a config."""
    return replace(roberta.parse(fields), types=0)


def build(config: EncoderConfig, weights: WeightSource, graph: GraphBuilder, max_len: int) -> None:
    """Build the graph."""
    MpnetEncoder(config, weights, graph, max_len, _NAMES).build()


CONFIG = parse
