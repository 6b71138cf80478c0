"""MPNet: a RoBERTa without token types that adds a learned bias for the distance of two tokens to every score."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.graph.whole import distances
from narthex_server.models.base import Fields, parsing
from narthex_server.models.encoders import roberta
from narthex_server.models.encoders.base import Encoder, EncoderConfig, Names

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


@dataclass(frozen=True, slots=True)
class MpnetConfig(EncoderConfig):
    """An encoder's dimensions, and how many distances it tells apart."""

    buckets: int = 32


class Mpnet(Encoder):
    """An Encoder with that bias."""

    config: MpnetConfig
    names = _NAMES

    def bias(self, tokens: ir.Value) -> ir.Value:
        graph, heads, farthest = self.graph, self.config.heads, self.config.places
        tensor = self.tensor(_BIAS, self.config.buckets, heads)

        def by_distance() -> NDArray[np.float32]:
            return np.ascontiguousarray(tensor.dense()[buckets(np.arange(-farthest, farthest + 1), len(tensor.raw))].T)

        table = graph.weight("distance_scores", np.float32, (heads, 2 * farthest + 1), by_distance)
        index = graph.op("Add", distances(graph, tokens), graph.constant("nearest", np.array(farthest, np.int64)))
        first = graph.constant("first_axis", np.array([0], np.int64))
        return graph.op("Unsqueeze", graph.op("Gather", table, index, axis=1), first)


@parsing()
def parse(fields: Fields) -> MpnetConfig:
    """Read a config."""
    base = replace(roberta.parse(fields), types=0)
    count = int(fields.get("relative_attention_num_buckets", 32))
    if count < 4 or count % 4:
        raise InvalidModelFile(f"config: relative_attention_num_buckets {count} is not a multiple of 4")
    own = {name: getattr(base, name) for name in EncoderConfig.__dataclass_fields__}
    return MpnetConfig(**own, buckets=count)


CONFIG = parse
MODEL = Mpnet
