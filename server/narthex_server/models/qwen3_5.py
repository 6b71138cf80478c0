"""Qwen3.5 with a vision tower, of which only the language model is built."""

from narthex_server.models.base import Fields, parsing
from narthex_server.models.qwen3_next import Hybrid, HybridConfig, parse_hybrid
from narthex_server.weights.tensors import StoredTensor


@parsing()
def parse(fields: Fields) -> HybridConfig:
    """Read the config of the language model in a config, whose own word on tied embeddings goes first."""
    tied = {"tie_word_embeddings": fields["tie_word_embeddings"]} if "tie_word_embeddings" in fields else {}
    return parse_hybrid({**fields["text_config"], **tied})


class Qwen35(Hybrid):
    """A Qwen3.5 language model under other names."""

    def find(self, name: str) -> StoredTensor | None:
        return super().find(name.replace("model.", "model.language_model.", 1))


CONFIG = parse
MODEL = Qwen35
