"""Qwen3: a Qwen2 without biases that normalises the heads of queries and keys before they rotate."""

from dataclasses import replace

from narthex_server.models import qwen2
from narthex_server.models.base import DecoderConfig, Fields, build_decoder


def parse(fields: Fields) -> DecoderConfig:
    """Read a config."""
    return replace(qwen2.parse(fields), head_norms=True)


CONFIG = parse
build = build_decoder
