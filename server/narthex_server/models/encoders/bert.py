"""BERT."""

from narthex_server.models.encoders.base import EncoderConfig, build_encoder

CONFIG = EncoderConfig.parse
build = build_encoder
