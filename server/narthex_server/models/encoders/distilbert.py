"""DistilBERT: a BERT without token types, in its own words."""

from narthex_server.models.base import Fields
from narthex_server.models.encoders.base import Encoder, EncoderConfig, Names

_SPELLING = {
    "hidden_size": "dim", "intermediate_size": "hidden_dim", "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads", "hidden_act": "activation",
}  # fmt: skip
_NAMES = Names(
    layers="transformer.layer", query="attention.q_lin", key="attention.k_lin", value="attention.v_lin",
    mixed="attention.out_lin", mixed_norm="sa_layer_norm", up="ffn.lin1", down="ffn.lin2",
    down_norm="output_layer_norm",
)  # fmt: skip


def parse(fields: Fields) -> EncoderConfig:
    """Read a config."""
    own = {name: fields[other] for name, other in _SPELLING.items() if other in fields}
    return EncoderConfig.parse({**fields, **own, "layer_norm_eps": 1e-12, "type_vocab_size": 0})


class DistilBert(Encoder):
    """An Encoder by other names."""

    names = _NAMES


CONFIG = parse
MODEL = DistilBert
