"""Gemma 3, its language model: a Gemma 2 with normalised heads, and other rotations where there is a window."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from narthex_server.models.base import SLIDING, Fields, HeadNorms, parse_rope, parsing, windows
from narthex_server.models.gemma import spelled
from narthex_server.models.gemma2 import Gemma2, Gemma2Config, score_scale

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "max_position_embeddings": 131072, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    }
)  # fmt: skip
"""What `text_config` leaves out: it holds only what differs from these."""


@parsing()
def parse(fields: Fields) -> Gemma2Config:
    """Read a config; without `layer_types` every `sliding_window_pattern`th layer is full."""
    config = Gemma2Config.parse(known := {**DEFAULTS, **spelled(fields)})
    every = int(known.get("sliding_window_pattern") or known.get("_sliding_window_pattern") or 6)
    kinds = known.get("layer_types") or [SLIDING if (i + 1) % every else "" for i in range(config.layers)]
    full, local = known, {"rope_theta": known["rope_local_base_freq"]}
    if SLIDING in (ropes := known.get("rope_parameters") or {}):
        full = known | {"rope_parameters": ropes["full_attention"]}
        local = known | {"rope_parameters": local | ropes[SLIDING]}
    rotations = {SLIDING: parse_rope(local, config.head_dim)}
    whole = parse_rope(full, config.head_dim)
    return replace(
        config,
        ropes=tuple(rotations.get(kind, whole) for kind in kinds),
        windows=windows(kinds, config.layers, known["sliding_window"]),
        attention_scale=score_scale(known),
        attention_softcap=float(known.get("attn_logit_softcapping", 0.0)),
        final_softcap=float(known.get("final_logit_softcapping", 0.0)),
    )


class Gemma3Text(HeadNorms, Gemma2):
    """A Gemma 2 with normalised heads."""

    config: Gemma2Config


CONFIG = parse
MODEL = Gemma3Text
