"""Llama and the many models that are one."""

from narthex_server.models.base import DecoderConfig, build_decoder

CONFIG = DecoderConfig.parse
build = build_decoder
