"""RoBERTa: a BERT whose places are counted from behind that of the padding token."""

from dataclasses import replace

from narthex_server.models.base import Fields, parsing
from narthex_server.models.encoders.base import Encoder, EncoderConfig


@parsing()
def parse(fields: Fields) -> EncoderConfig:
    """Read a config."""
    padding = fields.get("pad_token_id")
    return replace(EncoderConfig.parse(fields), first_place=int(1 if padding is None else padding) + 1)


CONFIG = parse
MODEL = Encoder
