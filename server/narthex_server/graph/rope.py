"""Rotary position embedding: frequencies with the published scalings, and their tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Beyond:
    """The frequencies of prompts that are longer than `length` tokens."""

    length: int
    frequencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rope:
    """Angular frequencies of the rotated pairs of one head, at most head_dim/2, and the factor on cos and sin."""

    frequencies: tuple[float, ...]
    scale: float = 1.0
    beyond: Beyond | None = None

    def __post_init__(self) -> None:
        numbers = (*self.frequencies, *(self.beyond.frequencies if self.beyond else ()), self.scale)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("the base or the factors of the rotation give frequencies that are no finite numbers")

    @property
    def size(self) -> int:
        """How many values of a head are rotated, its first ones."""
        return 2 * len(self.frequencies)

    def within(self, length: int) -> "Rope":
        """The same where no prompt has more than `length` tokens."""
        return replace(self, beyond=None) if self.beyond and length <= self.beyond.length else self

    def tables(self, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines and sines of positions 0 to length-1, each [length, size/2]; those of long prompts below them."""
        tables = [self.frequencies, self.beyond.frequencies] if self.beyond else [self.frequencies]
        angles = np.concatenate([np.outer(np.arange(length, dtype=np.float64), np.array(table)) for table in tables])
        return (np.cos(angles) * self.scale).astype(np.float32), (np.sin(angles) * self.scale).astype(np.float32)


def plain(theta: float, head_dim: int) -> NDArray[np.float64]:
    """theta^(-2i/head_dim)."""
    return np.asarray(theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim))


def linear(theta: float, head_dim: int, factor: float) -> Rope:
    """Positions divided by a factor."""
    return Rope(tuple(plain(theta, head_dim) / factor))


def factored(theta: float, head_dim: int, factors: Sequence[float]) -> Rope:
    """Each frequency divided by its own factor (the `rope_freqs.weight` of GGUF files)."""
    return Rope(tuple(plain(theta, head_dim) / np.array(factors, np.float64)))


def llama3(theta: float, head_dim: int, scaling: Mapping[str, float]) -> Rope:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, and a ramp between."""
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    base = plain(theta, head_dim)
    turns = original * base / (2 * math.pi)  # full turns within the original context
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return Rope(tuple(base * (kept + (1 - kept) / scaling["factor"])))


def yarn(theta: float, head_dim: int, scaling: Mapping[str, float]) -> Rope:
    """YaRN: linear for slow pairs, plain for fast ones, a ramp over the pairs between, and a factor on attention.

    The ramp goes from a whole pair to a whole pair unless `truncate` is false.
    """
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]

    def pair_with(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(scaling.get("beta_fast") or 32.0), pair_with(scaling.get("beta_slow") or 1.0)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    base = plain(theta, head_dim)
    attention = scaling.get("attention_factor") or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return Rope(tuple(base * ((1 - ramp) + ramp / factor)), attention)


def longrope(theta: float, head_dim: int, scaling: Mapping[str, Any]) -> Rope:
    """LongRoPE (Phi-3): each frequency divided by its own factor, by other ones in prompts beyond the original length.

    Source: https://arxiv.org/abs/2402.13753, and the attention factor sqrt(1 + ln(stretch) / ln(original)).
    """
    original, longest = int(scaling["original_max_position_embeddings"]), int(scaling["max_position_embeddings"])
    stretch = scaling.get("factor") or longest / original
    scale = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    scale = scaling.get("attention_factor") or scale
    base = plain(theta, head_dim)
    short, long = (np.array(scaling[name], np.float64) for name in ("short_factor", "long_factor"))
    if not len(short) == len(long) == len(base):
        raise ValueError(f"{len(short)} short and {len(long)} long rope factors for {len(base)} rotated pairs")
    return Rope(tuple(base / short), scale, Beyond(original, tuple(base / long)))
