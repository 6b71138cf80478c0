"""RoBERTa: a BERT whose places are counted from behind that of the padding token."""

from dataclasses import replace

from narthex_server.models.encoders.base import Encoder, EncoderConfig, Fields


def parse(fields: Fields) -> EncoderConfig:
    """Read a config."""
    return replace(EncoderConfig.parse(fields), first_place=int(fields.get("pad_token_id", 1)) + 1)


CONFIG = parse
MODEL = Encoder
