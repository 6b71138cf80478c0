"""Qwen2 MoE: a Qwen2 with mixtures of experts, and one expert for every token behind a gate of its own."""

from dataclasses import replace

import onnx_ir as ir

from narthex_server.models import qwen3_moe
from narthex_server.models.base import DecoderConfig, Fields, parsing
from narthex_server.models.mixture import MixtureDecoder


@parsing()
def parse(fields: Fields) -> DecoderConfig:
    """Read a config."""
    config = qwen3_moe.parse(fields)
    if config.mixture is None:
        return config
    return replace(config, mixture=replace(config.mixture, shared=int(fields["shared_expert_intermediate_size"])))


class Qwen2Moe(MixtureDecoder):
    """A decoder of mixtures with a shared expert."""

    def feed(self, layer: int, x: ir.Value) -> ir.Value:
        mixed, config, mixture = super().feed(layer, x), self.config, self.config.mixture
        if mixture is None or layer not in mixture.layers:
            return mixed
        block, *names = self.feed_forward
        prefix = f"model.layers.{layer}.{block}.shared_expert"
        share = self.graph.op("Sigmoid", self.project(f"{prefix}_gate", x, config.hidden, 1))
        shared = self.gated(prefix, names, x, mixture.shared)
        return self.graph.op("Add", mixed, self.graph.op("Mul", shared, share))


CONFIG = parse
MODEL = Qwen2Moe
