"""Mistral: a Llama whose queries see a sliding window."""

from dataclasses import replace

from narthex_server.models.base import Decoder, DecoderConfig, Fields, parsing


@parsing()
def parse(fields: Fields) -> DecoderConfig:
    """Read a config; `sliding_window` null means that there is no window."""
    config = DecoderConfig.parse(fields)
    window = fields.get("sliding_window")
    return replace(config, windows=(int(window) if window else None,) * config.layers)


CONFIG = parse
MODEL = Decoder
