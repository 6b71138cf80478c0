"""StarCoder2: layer norms, biases everywhere, and a feed-forward without a gate."""

from collections.abc import Mapping

import onnx_ir as ir

from narthex_server.graph.mlp import ACTIVATIONS
from narthex_server.graph.norm import layer_norm
from narthex_server.graph.residual import Residual
from narthex_server.models import mistral
from narthex_server.models.base import Decoder, DecoderConfig, Fields, parsing


@parsing()
def parse(fields: Fields) -> DecoderConfig:
    """Read a config."""
    defaults: Mapping[str, object] = {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"}
    return mistral.parse({**defaults, **fields, "rms_norm_eps": fields.get("norm_epsilon", 1e-5)})


class Starcoder2(Decoder):
    """A decoder with layer norms."""

    def layer(self, layer: int, stream: Residual) -> None:
        for part, norm in zip((self.attend, self.feed), self.layer_norms, strict=True):
            stream.add(part(layer, self.normalise(stream.value(), f"model.layers.{layer}.{norm}")))

    def feed(self, layer: int, x: ir.Value) -> ir.Value:
        config, prefix = self.config, f"model.layers.{layer}.mlp"
        inner = self.project(f"{prefix}.c_fc", x, config.hidden, config.intermediate)
        inner = ACTIVATIONS[config.activation](self.graph, inner)
        return self.project(f"{prefix}.c_proj", inner, config.intermediate, config.hidden)

    def normalise(self, x: ir.Value, name: str, size: int | None = None) -> ir.Value:
        bias = self.tensor(f"{name}.bias", size or self.config.hidden) if self.find(f"{name}.bias") else None
        return layer_norm(self.graph, x, self.norm(name, size), bias, self.config.epsilon)


CONFIG = parse
MODEL = Starcoder2
