"""Granite: a Llama with a factor on embeddings, scores, every layer's additions and logits."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from narthex_server.errors import InvalidModelFile
from narthex_server.graph.scale import scaled
from narthex_server.models.base import Decoder, DecoderConfig, Fields, parsing


@dataclass(frozen=True, slots=True)
class GraniteConfig(DecoderConfig):
    """A decoder's dimensions and the factors; logits are divided by theirs."""

    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0

    def __post_init__(self) -> None:
        DecoderConfig.__post_init__(self)
        if not self.logits_scaling:
            raise InvalidModelFile("config: logits_scaling is 0, by which no logits can be divided")


@parsing()
def parse(fields: Fields) -> GraniteConfig:
    """Read a config."""
    config = replace(
        GraniteConfig.parse(fields),
        attention_scale=float(fields.get("attention_multiplier", 1.0)),
        embedding_multiplier=float(fields.get("embedding_multiplier", 1.0)),
        residual_multiplier=float(fields.get("residual_multiplier", 1.0)),
        logits_scaling=float(fields.get("logits_scaling", 1.0)),
    )
    if config.logits_scaling == 0:
        raise InvalidModelFile("config: logits_scaling is 0, by which logits are divided")
    return config


class Granite(Decoder):
    """A decoder with factors."""

    config: GraniteConfig

    def embed(self, tokens: ir.Value) -> ir.Value:
        return scaled(self.graph, super().embed(tokens), self.config.embedding_multiplier)

    def attend(self, layer: int, x: ir.Value) -> ir.Value:
        return scaled(self.graph, super().attend(layer, x), self.config.residual_multiplier)

    def feed(self, layer: int, x: ir.Value) -> ir.Value:
        return scaled(self.graph, super().feed(layer, x), self.config.residual_multiplier)

    def logits(self, product: ir.Value) -> ir.Value:
        return scaled(self.graph, product, 1.0 / self.config.logits_scaling)


CONFIG = parse
MODEL = Granite
