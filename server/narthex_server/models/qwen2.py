"""Qwen2 and Qwen2.5: biases on query, key and value; later layers may see a sliding window."""

from dataclasses import replace

from narthex_server.models.base import SLIDING, Decoder, DecoderConfig, Fields, parsing, windows


@parsing()
def parse(fields: Fields) -> DecoderConfig:
    """Read a config; `use_sliding_window` decides, then `layer_types`, else `max_window_layers`, says which layers."""
    config = DecoderConfig.parse(fields)
    window = fields.get("sliding_window")
    if not fields.get("use_sliding_window") or not window:
        return config
    full = int(fields.get("max_window_layers", config.layers))
    kinds = fields.get("layer_types") or [SLIDING if i >= full else "" for i in range(config.layers)]
    return replace(config, windows=windows(kinds, config.layers, window))


CONFIG = parse
MODEL = Decoder
