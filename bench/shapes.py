"""The shapes of the models that are measured."""

from dataclasses import dataclass

HEAD = 64
SPREAD = 0.03
"""Deviation of the random weights."""


@dataclass(frozen=True, slots=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocab: int = 49152
    rope_base: float = 100_000.0
    pretokenizer: str = "smollm"


SHAPES = {
    "135m": Shape(576, 30, 9, 3, 1536),
    "wide": Shape(768, 18, 12, 4, 1536),
    "1b": Shape(2048, 16, 32, 8, 8192, 128256, 500_000.0, "llama-bpe"),
}
"""SmolLM2-135M's, one of the same size whose rows make blocks of 256, and Llama-3.2-1B's."""
