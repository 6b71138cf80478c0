"""Gemma 3 with a vision tower, of which only the language model is built."""

from narthex_server.models import gemma3_text
from narthex_server.models.base import Fields, parsing
from narthex_server.models.gemma2 import Gemma2Config
from narthex_server.models.gemma3_text import Gemma3Text
from narthex_server.weights.tensors import StoredTensor

_PREFIXES = ("language_model.model.", "model.language_model.")
"""Where transformers 4 and 5 put what a language model alone calls `model.`"""


@parsing()
def parse(fields: Fields) -> Gemma2Config:
    """Read the config of the language model in a config."""
    return gemma3_text.parse(fields["text_config"])


class Gemma3(Gemma3Text):
    """A Gemma 3 language model under other names."""

    def find(self, name: str) -> StoredTensor | None:
        names = (prefix + name.removeprefix("model.") for prefix in _PREFIXES)
        return next((tensor for tensor in map(super().find, names) if tensor is not None), None)


CONFIG = parse
MODEL = Gemma3
