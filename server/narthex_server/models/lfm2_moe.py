"""LFM2 MoE: an LFM2 with mixtures of experts, routed by sigmoids with a bias on the choice, after some dense layers."""

from dataclasses import replace

import onnx_ir as ir

from narthex_server.graph.linear import vector
from narthex_server.graph.moe import routing
from narthex_server.graph.scale import scaled
from narthex_server.models import lfm2
from narthex_server.models.base import Fields, Mixture, parsing
from narthex_server.models.lfm2 import Lfm2, Lfm2Config
from narthex_server.models.mixture import MixtureDecoder

_EPSILON = 1e-6


@parsing()
def parse(fields: Fields) -> Lfm2Config:
    """Read a config; `intermediate_size` is the width of the dense layers as it is."""
    config = lfm2.parse({"block_auto_adjust_ff_dim": False, **fields})
    mixed = Mixture(
        count=int(fields["num_experts"]),
        chosen=int(fields["num_experts_per_tok"]),
        width=int(fields["moe_intermediate_size"]),
        normalised=bool(fields.get("norm_topk_prob", True)),
        layers=frozenset(range(int(fields.get("num_dense_layers", 2)), config.layers)),
        scale=float(fields.get("routed_scaling_factor", 1.0)),
    )
    return replace(config, mixture=mixed)


class Lfm2Moe(MixtureDecoder, Lfm2):
    """An LFM2 of mixtures."""

    config: Lfm2Config

    def route(self, prefix: str, logits: ir.Value, mixed: Mixture) -> ir.Value:
        weights = self.graph.op("Sigmoid", logits)
        scores = weights
        if self.find(f"{prefix}.expert_bias"):
            bias = vector(self.graph, self.tensor(f"{prefix}.expert_bias", mixed.count))
            scores = self.graph.op("Add", weights, bias)
        return scaled(
            self.graph, routing(self.graph, scores, weights, mixed.chosen, mixed.normalised, _EPSILON), mixed.scale
        )


CONFIG = parse
MODEL = Lfm2Moe
