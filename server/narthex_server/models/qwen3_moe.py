"""Qwen3 MoE: a Qwen3 whose feed-forward is a mixture of experts in most layers."""

from dataclasses import replace

from narthex_server.models import qwen3
from narthex_server.models.base import DecoderConfig, Fields, HeadNorms, Mixture, parsing
from narthex_server.models.mixture import MixtureDecoder


@parsing()
def parse(fields: Fields) -> DecoderConfig:
    """Read a config; every `decoder_sparse_step`th layer is a mixture unless `mlp_only_layers` has it."""
    config = qwen3.CONFIG(fields)
    step, dense = int(fields.get("decoder_sparse_step") or 1), fields.get("mlp_only_layers") or ()
    mixed = Mixture(
        count=int(fields.get("num_experts") or fields["num_local_experts"]),
        chosen=int(fields["num_experts_per_tok"]),
        width=int(fields["moe_intermediate_size"]),
        normalised=bool(fields.get("norm_topk_prob", False)),
        layers=frozenset(i for i in range(config.layers) if i not in dense and (i + 1) % step == 0),
    )
    return replace(config, mixture=mixed)


class Qwen3Moe(MixtureDecoder, HeadNorms):
    """A decoder of mixtures that normalises heads."""


CONFIG = parse
MODEL = Qwen3Moe
