"""Llama and the many models that are one."""

from narthex_server.models.base import Decoder, DecoderConfig

CONFIG = DecoderConfig.parse
MODEL = Decoder
