"""OLMo 2: norms after attention and feed-forward instead of before them, and over all heads of queries and of keys."""

import onnx_ir as ir

from narthex_server.graph.residual import Residual
from narthex_server.models.base import Decoder, DecoderConfig


class Olmo2(Decoder):
    """A decoder that normalises what its layers add."""

    def layer(self, layer: int, stream: Residual) -> None:
        prefix = f"model.layers.{layer}"
        attended = self.attend(layer, stream.value())
        stream.add(self.normalise(attended, f"{prefix}.post_attention_layernorm"))
        fed = self.feed(layer, stream.value())
        stream.add(self.normalise(fed, f"{prefix}.post_feedforward_layernorm"))

    def query_key_value(self, prefix: str, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        config = self.config
        query, key, value = super().query_key_value(prefix, x)
        return (
            self.normalise(query, f"{prefix}.q_norm", config.heads * config.head_dim),
            self.normalise(key, f"{prefix}.k_norm", config.kv_heads * config.head_dim),
            value,
        )


CONFIG = DecoderConfig.parse
MODEL = Olmo2
