"""Phi-3: query, key and value are one projection, gate and up another; long prompts rotate by other frequencies."""

from dataclasses import replace

import onnx_ir as ir

from narthex_server.graph.mlp import gated
from narthex_server.models.base import Decoder, DecoderConfig, Fields, parsing


@parsing()
def parse(fields: Fields) -> DecoderConfig:
    """Read a config; `sliding_window` null means that there is no window."""
    config = DecoderConfig.parse({name: value for name, value in fields.items() if name != "head_dim"})
    window = fields.get("sliding_window")
    return replace(config, windows=(int(window) if window else None,) * config.layers)


class Phi3(Decoder):
    """A decoder with joined projections."""

    def query_key_value(self, prefix: str, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        config = self.config
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        joined = self.project(f"{prefix}.qkv_proj", x, config.hidden, width + 2 * kv_width)
        query, key, value = self.graph.split(joined, [width, kv_width, kv_width])
        return query, key, value

    def feed(self, layer: int, x: ir.Value) -> ir.Value:
        config, prefix = self.config, f"model.layers.{layer}.mlp"
        joined = self.project(f"{prefix}.gate_up_proj", x, config.hidden, 2 * config.intermediate)
        gate, up = self.graph.split(joined, [config.intermediate] * 2)
        mixed = gated(self.graph, gate, up, config.activation)
        return self.project(f"{prefix}.down_proj", mixed, config.intermediate, config.hidden)


CONFIG = parse
MODEL = Phi3
