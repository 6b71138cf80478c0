"""BERT."""

from narthex_server.models.encoders.base import Encoder, EncoderConfig

CONFIG = EncoderConfig.parse
MODEL = Encoder
