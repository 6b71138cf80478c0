"""SmolLM3: a Llama in which some layers do not rotate, and may then see a window."""

from dataclasses import replace

from narthex_server.errors import InvalidModelFile
from narthex_server.models.base import SLIDING, Decoder, DecoderConfig, Fields, parsing, windows


@parsing()
def parse(fields: Fields) -> DecoderConfig:
    """Read a config; `no_rope_layers` has a 1 for each layer that does rotate."""
    defaults = {"tie_word_embeddings": True, "rope_theta": 2e6}
    config = DecoderConfig.parse(defaults | dict(fields))
    every = int(fields.get("no_rope_layer_interval") or 4)
    rotating = fields.get("no_rope_layers") or [(i + 1) % every for i in range(config.layers)]
    if len(rotating) < config.layers:
        raise InvalidModelFile(f"config: no_rope_layers names {len(rotating)} layers, the model has {config.layers}")
    ropes = tuple(rope if rotates else None for rope, rotates in zip(config.ropes, rotating, strict=False))
    kinds = fields.get("layer_types") or ["" if rope else SLIDING for rope in ropes]
    window = fields.get("sliding_window") if fields.get("use_sliding_window") else None
    return replace(config, ropes=ropes, windows=windows(kinds, config.layers, window))


CONFIG = parse
MODEL = Decoder
