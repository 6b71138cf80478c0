"""Qwen3-Next: gated delta nets instead of attention in most layers, gated attention in the others, and mixtures."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from narthex_server.errors import InvalidModelFile
from narthex_server.graph.attention import head_norm, split_heads
from narthex_server.graph.conv import short_conv
from narthex_server.graph.delta import DeltaHeads, gated_delta
from narthex_server.graph.linear import vector
from narthex_server.graph.mlp import ACTIVATIONS, gated
from narthex_server.models import qwen2_moe
from narthex_server.models.base import DecoderConfig, Fields, HeadNorms, parsing
from narthex_server.models.qwen2_moe import Qwen2Moe
from narthex_server.weights.tensors import StoredTensor

DELTA, ATTENTION = "linear_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class HybridConfig(DecoderConfig):
    """A decoder's dimensions; `kinds` says of each layer what mixes its tokens, `width` is that of the convolutions."""

    kinds: tuple[str, ...] = ()
    delta: DeltaHeads = DeltaHeads(16, 128, 32, 128)  # noqa: RUF009 (frozen)
    width: int = 4


@parsing()
def parse_hybrid(fields: Fields) -> HybridConfig:
    """Read a config without its mixtures; without `layer_types` every `full_attention_interval`th layer attends."""
    config = HybridConfig.parse({"head_dim": 256, "partial_rotary_factor": 0.25, **fields})
    every = int(fields.get("full_attention_interval") or 4)
    kinds = fields.get("layer_types") or [DELTA if (i + 1) % every else ATTENTION for i in range(config.layers)]
    if len(kinds) != config.layers or not {DELTA, ATTENTION}.issuperset(kinds):
        raise InvalidModelFile(
            f"config: layer_types must name {DELTA} or {ATTENTION} for each of {config.layers} layers"
        )
    heads = DeltaHeads(
        int(fields.get("linear_num_key_heads", 16)), int(fields.get("linear_key_head_dim", 128)),
        int(fields.get("linear_num_value_heads", 32)), int(fields.get("linear_value_head_dim", 128)),
    )  # fmt: skip
    if min(heads.keys, heads.values, heads.key_count, heads.count) < 1 or heads.count % heads.key_count:
        raise InvalidModelFile(
            f"config: {heads.count} heads of {heads.size} linear values cannot share {heads.key_count} of "
            f"{heads.key_size} keys"
        )
    return replace(config, kinds=tuple(kinds), delta=heads, width=int(fields.get("linear_conv_kernel_dim", 4)))


@parsing()
def parse(fields: Fields) -> HybridConfig:
    """Read a config."""
    return replace(parse_hybrid(fields), mixture=qwen2_moe.parse({"norm_topk_prob": True, **fields}).mixture)


class Hybrid(HeadNorms):
    """A decoder of delta nets and gated attention whose norms are centred on one."""

    config: HybridConfig

    def attend(self, layer: int, x: ir.Value) -> ir.Value:
        return self.attend_gated(layer, x) if self.config.kinds[layer] == ATTENTION else self.recall(layer, x)

    def attend_gated(self, layer: int, x: ir.Value) -> ir.Value:
        """Self-attention; each head of the query's projection is followed by the gate on what the head yields."""
        graph, config, prefix = self.graph, self.config, f"model.layers.{layer}.self_attn"
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        both = self.project(f"{prefix}.q_proj", x, config.hidden, 2 * width)
        query, gate = split_heads(graph, both, config.heads, [config.head_dim] * 2)
        key, value = (self.project(f"{prefix}.{name}", x, config.hidden, kv_width) for name in ("k_proj", "v_proj"))
        query = self.head_norm(query, config.heads, f"{prefix}.q_norm")
        key = self.head_norm(key, config.kv_heads, f"{prefix}.k_norm")
        mixed = self.attention.mix(layer, query, key, value, self.heads(layer), config.ropes[layer])
        return self.project(
            f"{prefix}.{self.output_projection}", graph.op("Mul", mixed, graph.op("Sigmoid", gate)),
            width, config.hidden,
        )  # fmt: skip

    def recall(self, layer: int, x: ir.Value) -> ir.Value:
        """A gated delta net."""
        graph, config, heads, prefix = self.graph, self.config, self.config.delta, f"model.layers.{layer}.linear_attn"
        channels = 2 * heads.keys + heads.values
        joined, gate, rate, step = self.delta_inputs(prefix, x)
        kernel = self.tensor(f"{prefix}.conv1d.weight", channels, 1, config.width)
        joined = ACTIVATIONS[config.activation](graph, short_conv(graph, layer, joined, kernel, None))
        query, key, value = graph.split(joined, [heads.keys, heads.keys, heads.values])
        bias, speed = (vector(graph, self.tensor(f"{prefix}.{name}", heads.count)) for name in ("dt_bias", "A_log"))
        step = graph.op("Softplus", graph.op("Add", step, bias))
        decay = graph.op("Mul", step, graph.op("Neg", graph.op("Exp", speed)))
        mixed = gated_delta(graph, layer, query, key, value, decay, graph.op("Sigmoid", rate), heads)
        factors = self.tensor(f"{prefix}.norm.weight", heads.size)
        normal = head_norm(graph, mixed, heads.count, heads.size, factors, config.epsilon)
        return self.project(f"{prefix}.out_proj", gated(graph, gate, normal, "silu"), heads.values, config.hidden)

    def delta_inputs(self, prefix: str, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
        """Queries, keys and values side by side; the gate [B, S, values]; rates and steps [B, S, count]."""
        hidden, heads = self.config.hidden, self.config.delta
        widths = {"qkv": 2 * heads.keys + heads.values, "z": heads.values, "b": heads.count, "a": heads.count}
        joined, gate, rate, step = (
            self.project(f"{prefix}.in_proj_{name}", x, hidden, width) for name, width in widths.items()
        )
        return joined, gate, rate, step

    def norm(self, name: str, size: int | None = None) -> StoredTensor:
        return super().norm(name, size).shifted(1.0)


class Qwen3Next(Hybrid, Qwen2Moe):
    """A hybrid of mixtures with a shared expert, in which the inputs of a delta net are sorted by head."""

    config: HybridConfig

    def delta_inputs(self, prefix: str, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
        graph, hidden, heads = self.graph, self.config.hidden, self.config.delta
        share = heads.count // heads.key_count
        both = self.project(f"{prefix}.in_proj_qkvz", x, hidden, 2 * (heads.keys + heads.values))
        sizes = [heads.key_size] * 2 + [share * heads.size] * 2
        *joined, gate = split_heads(graph, both, heads.key_count, sizes)
        small = self.project(f"{prefix}.in_proj_ba", x, hidden, 2 * heads.count)
        rate, step = split_heads(graph, small, heads.key_count, [share] * 2)
        return graph.op("Concat", *joined, axis=-1), gate, rate, step


CONFIG = parse
MODEL = Qwen3Next
