"""Mixtral: a Mistral whose feed-forward is a mixture of experts in every layer."""

from dataclasses import replace

from narthex_server.models import mistral
from narthex_server.models.base import DecoderConfig, Fields, Mixture, parsing
from narthex_server.models.mixture import MixtureDecoder
from narthex_server.weights.tensors import StoredTensor


@parsing()
def parse(fields: Fields) -> DecoderConfig:
    """Read a config; `intermediate_size` is the width of an expert."""
    config = mistral.parse(fields)
    count, chosen = int(fields["num_local_experts"]), int(fields["num_experts_per_tok"])
    return replace(config, mixture=Mixture(count, chosen, config.intermediate, True, frozenset(range(config.layers))))


class Mixtral(MixtureDecoder):
    """A decoder of mixtures."""

    feed_forward = ("block_sparse_moe", "w1", "w3", "w2")

    def find(self, name: str) -> StoredTensor | None:
        # Where transformers 5 stacks the experts it calls the block `mlp`.
        return super().find(name) or super().find(name.replace("block_sparse_moe", "mlp"))


CONFIG = parse
MODEL = Mixtral
