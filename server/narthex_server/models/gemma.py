"""Gemma: norms multiply by 1 + weight, embeddings by the square root of their size."""

from typing import Any

import onnx_ir as ir

from narthex_server.graph.scale import scaled
from narthex_server.models.base import Decoder, DecoderConfig, Fields
from narthex_server.weights.tensors import StoredTensor


def spelled(fields: Fields) -> dict[str, Any]:
    """Fill in what Gemma's files leave out; the first ones say `gelu` and mean its approximation."""
    known = {"tie_word_embeddings": True, "head_dim": 256} | {n: v for n, v in fields.items() if v is not None}
    return known | {"hidden_act": fields.get("hidden_activation") or "gelu_pytorch_tanh"}


def parse(fields: Fields) -> DecoderConfig:
    """Read a config."""
    return DecoderConfig.parse(spelled(fields))


class Gemma(Decoder):
    """A decoder whose norms are centred on one."""

    def embed(self, tokens: ir.Value) -> ir.Value:
        return scaled(self.graph, super().embed(tokens), self.config.hidden**0.5)

    def norm(self, name: str, size: int | None = None) -> StoredTensor:
        return super().norm(name, size).shifted(1.0)


CONFIG = parse
MODEL = Gemma
