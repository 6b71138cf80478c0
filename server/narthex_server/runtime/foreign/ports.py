"""What a decoder graph that we did not build calls its inputs and outputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.runtime.slot_cache import SlotCache


@dataclass(frozen=True, slots=True)
class Port:
    """One input; `dtype` is NumPy's name."""

    name: str
    dtype: str
    rank: int

    def scalar(self, value: int) -> NDArray[Any]:
        """Give one number the rank that the graph declares."""
        return np.full((1,) * self.rank, value, self.dtype)


@dataclass(frozen=True, slots=True)
class CachePort:
    """The input and output of one cache; the extents of `shape` are numbers, "slots" and, if it grows, "max_len"."""

    past: str
    present: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Ports:
    """The inputs and outputs of a decoder; None for inputs that it does not have.

    `branch` tells a graph of two halves that there is a past, `keep` how many of the last tokens' logits are wanted.
    `logits_rows` is None where there are logits of all tokens. `in_place`: attention can write into its own past.
    """

    tokens: Port
    logits: str
    logits_dtype: str
    logits_rows: int | None
    vocab_size: int
    caches: tuple[CachePort, ...]
    mask: Port | None = None
    positions: Port | None = None
    branch: Port | None = None
    keep: Port | None = None
    in_place: bool = False

    def slot_cache(self, slots: int, max_len: int) -> SlotCache:
        """Make room for the caches of so many sequences, by the names of the inputs."""
        return SlotCache(((cache.past, cache.shape, cache.dtype) for cache in self.caches), slots, max_len)

    def feeds(
        self, tokens: NDArray[np.int64], past: NDArray[np.int32], mask: NDArray[np.bool_], keep: int
    ) -> dict[str, NDArray[Any]]:
        """Give values to all inputs but the caches: tokens [B, S] after past [B], mask [B, columns of past and S]."""
        feeds: dict[str, NDArray[Any]] = {self.tokens.name: np.ascontiguousarray(tokens, self.tokens.dtype)}
        if self.mask is not None:
            feeds[self.mask.name] = mask.astype(self.mask.dtype)
        if self.positions is not None:
            places = past[:, None] + np.arange(tokens.shape[1])
            feeds[self.positions.name] = places.astype(self.positions.dtype)
        if self.branch is not None:
            feeds[self.branch.name] = self.branch.scalar(int(past.any()))
        if self.keep is not None:
            feeds[self.keep.name] = self.keep.scalar(keep)
        return feeds

    def kept(self, length: int, rows: NDArray[np.int64]) -> int:
        """Count the last tokens of a chunk of `length` that have logits in the output when `rows` are wanted."""
        if self.logits_rows is not None:
            return self.logits_rows
        return length - int(rows.min(initial=length - 1)) if self.keep is not None else length


def single_precision(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Give the logits of a graph, float16 or float32, as the engine wants them."""
    return logits.astype(np.float32, copy=False)
