"""Gemma 2: norms after attention and feed-forward too, soft-caps on scores and logits, windows in half the layers."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from narthex_server.errors import InvalidModelFile
from narthex_server.graph.scale import softcapped
from narthex_server.models.base import SLIDING, DecoderConfig, Fields, parsing, windows
from narthex_server.models.gemma import Gemma, spelled


@dataclass(frozen=True, slots=True)
class Gemma2Config(DecoderConfig):
    """A decoder's dimensions; `final_softcap` bounds the logits, 0 does not."""

    final_softcap: float = 0.0


@parsing()
def parse(fields: Fields) -> Gemma2Config:
    """Read a config; without `layer_types` the even layers have the window."""
    defaults = {"sliding_window": 4096, "query_pre_attn_scalar": 256}
    config = Gemma2Config.parse(known := defaults | spelled(fields))
    kinds = known.get("layer_types") or [SLIDING if i % 2 == 0 else "" for i in range(config.layers)]
    return replace(
        config,
        windows=windows(kinds, config.layers, known["sliding_window"]),
        attention_scale=score_scale(known),
        attention_softcap=float(fields.get("attn_logit_softcapping", 50.0) or 0.0),
        final_softcap=float(fields.get("final_logit_softcapping", 30.0) or 0.0),
    )


def score_scale(fields: Fields) -> float:
    """What scores are multiplied by."""
    if not (scalar := float(fields["query_pre_attn_scalar"])) > 0:
        raise InvalidModelFile(f"config: query_pre_attn_scalar is {scalar}, not above 0")
    return float(scalar**-0.5)


class Gemma2(Gemma):
    """Attention and feed-forward are each normalised before and after."""

    config: Gemma2Config
    layer_norms = ("input_layernorm", "pre_feedforward_layernorm")

    def attend(self, layer: int, x: ir.Value) -> ir.Value:
        return self.normalise(super().attend(layer, x), f"model.layers.{layer}.post_attention_layernorm")

    def feed(self, layer: int, x: ir.Value) -> ir.Value:
        return self.normalise(super().feed(layer, x), f"model.layers.{layer}.post_feedforward_layernorm")

    def logits(self, product: ir.Value) -> ir.Value:
        return softcapped(self.graph, product, self.config.final_softcap)


CONFIG = parse
MODEL = Gemma2
