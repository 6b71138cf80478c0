"""LFM2: short gated convolutions, and attention with normalised heads in some layers."""

from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from narthex_server.errors import InvalidModelFile
from narthex_server.graph.conv import short_conv
from narthex_server.models.base import DecoderConfig, Fields, HeadNorms, parsing

CONV, ATTENTION = "conv", "full_attention"


@dataclass(frozen=True, slots=True)
class Lfm2Config(DecoderConfig):
    """A decoder's dimensions; `kinds` says of each layer what mixes its tokens, `width` is that of the kernels."""

    kinds: tuple[str, ...] = ()
    width: int = 3


@parsing()
def parse(fields: Fields) -> Lfm2Config:
    """Read a config, in the spelling of the first files too (`block_ff_dim`, `full_attn_idxs`)."""
    known: dict[str, Any] = dict(fields)
    known["rms_norm_eps"] = fields.get("norm_eps", 1e-5)
    known["intermediate_size"] = _feed_forward_width(fields)
    known["tie_word_embeddings"] = fields.get("tie_word_embeddings", fields.get("tie_embedding", True))
    config = Lfm2Config.parse(known)
    attention = fields.get("full_attn_idxs") or ()
    kinds = fields.get("layer_types") or [ATTENTION if i in attention else CONV for i in range(config.layers)]
    if len(kinds) != config.layers or not {CONV, ATTENTION}.issuperset(kinds):
        raise InvalidModelFile(
            f"config: layer_types must name {CONV} or {ATTENTION} for each of {config.layers} layers"
        )
    return replace(config, kinds=tuple(kinds), width=int(fields.get("conv_L_cache", 3)))


def _feed_forward_width(fields: Fields) -> int:
    width = fields.get("block_ff_dim") or fields.get("intermediate_size")
    if width is None:
        raise KeyError("intermediate_size")
    if not fields.get("block_auto_adjust_ff_dim", True):
        return int(width)
    multiple = int(fields.get("block_multiple_of", 256))
    wanted = int(float(fields.get("block_ffn_dim_multiplier") or 1.0) * int(2 * int(width) / 3))
    return -(-wanted // multiple) * multiple


class Lfm2(HeadNorms):
    """Each layer adds a convolution or attention, then feed-forward."""

    config: Lfm2Config
    norms = ("q_layernorm", "k_layernorm")
    output_projection = "out_proj"
    layer_norms = ("operator_norm", "ffn_norm")
    feed_forward = ("feed_forward", "w1", "w3", "w2")
    final_norm = "model.embedding_norm"

    def attend(self, layer: int, x: ir.Value) -> ir.Value:
        return self.convolve(layer, x) if self.config.kinds[layer] == CONV else super().attend(layer, x)

    def convolve(self, layer: int, x: ir.Value) -> ir.Value:
        """out(C * conv(B * X)), where B, C and X are projections of x [B, S, hidden]."""
        graph, hidden, prefix = self.graph, self.config.hidden, f"model.layers.{layer}.conv"
        before, after, value = graph.split(self.project(f"{prefix}.in_proj", x, hidden, 3 * hidden), [hidden] * 3)
        weight = self.tensor(f"{prefix}.conv.weight", hidden, 1, self.config.width)
        bias = self.tensor(f"{prefix}.conv.bias", hidden) if self.find(f"{prefix}.conv.bias") else None
        mixed = short_conv(graph, layer, graph.op("Mul", before, value), weight, bias)
        return self.project(f"{prefix}.out_proj", graph.op("Mul", after, mixed), hidden, hidden)


CONFIG = parse
MODEL = Lfm2
