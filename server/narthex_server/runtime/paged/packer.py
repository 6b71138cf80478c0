"""New tokens of several sequences as the inputs of one packed step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.runtime.paged.blocks import Blocks, Integers

Feeds = Mapping[str, NDArray[np.integer[Any]]]
"""The inputs of a paged graph by name (graph/paged.py), its caches apart."""
_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Chunks:
    """New tokens of N sequences: `counts` [N] each of `tokens` [T], behind the `past` [N] tokens in `slots` [N].

    `known` [N] counts each one's whole prompt, of which there may be more to come.
    """

    tokens: NDArray[np.int64]
    counts: Integers
    slots: Integers
    past: Integers
    known: Integers

    def padded(self, sequences: int) -> "Chunks":
        """As many as `sequences`: the added ones have one token and no past."""
        if not (more := sequences - len(self.slots)):
            return self
        ones, zeros = np.ones(more, np.int64), np.zeros(more, np.int64)
        return Chunks(
            np.append(self.tokens, zeros), np.append(self.counts, ones), np.append(self.slots, zeros),
            np.append(self.past, zeros), np.append(self.known, ones),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packer:
    """Lays chunks out for a graph whose caches are `blocks`.

    Prompts of more than `long_prompt` tokens are rotated by the tables' second half, which begins at `max_len`.
    """

    blocks: Blocks
    max_len: int
    long_prompt: int

    def pack(self, chunks: Chunks, rows: NDArray[np.int64], sequences: int = 0) -> Feeds:
        """The inputs of a step that gives the logits of the tokens at `rows`.

        There are at least `sequences` sequences, and those that are added leave nothing in the caches.
        """
        real, chunks = len(chunks.tokens), chunks.padded(max(sequences, len(chunks.slots)))
        starts = np.concatenate((np.zeros(1, np.int32), np.cumsum(chunks.counts, dtype=np.int32)))
        owners = np.repeat(np.arange(len(chunks.slots)), chunks.counts)
        positions = np.arange(len(owners)) - starts[owners] + chunks.past[owners]
        places = self.blocks.places(chunks.slots[owners], positions)
        places[real:] = _NOWHERE
        positions += self.max_len * (chunks.known > self.long_prompt)[owners]
        return {
            "tokens": chunks.tokens[None], "rows": rows, "cu_seqlens": starts,
            "past_seqlens": chunks.past.astype(np.int32), "block_table": self.blocks.table(chunks.slots),
            "slot_mapping": places, "positions": positions[None],
            "attention_metadata": np.array([chunks.counts.max(), self.blocks.capacity], np.int32),
        }  # fmt: skip
