"""A decoder over paged caches: what steps are made of, whatever device computes them."""

import gc
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.runtime.paged.blocks import Blocks
from narthex_server.runtime.paged.packer import Chunks, Feeds, Packer
from narthex_server.runtime.session import Shape

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Best:
    """The largest `logits` [R, K] of each row in falling order, and whose they are: `tokens` [R, K]."""

    logits: Floats
    tokens: NDArray[np.int64]


class Scores(Protocol):
    """What a step computed, on its device until it is asked for; good until the next step of the same shape."""

    def logits(self) -> Floats:
        """All logits [R, vocab]."""
        ...

    def best(self) -> Best:
        """The best ones of each row, where the step was to find them."""
        ...


class PagedGraph(Protocol):
    """A graph with its caches, on a device; `long_prompt` is None where all prompts are rotated alike."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def block_size(self) -> int: ...

    @property
    def long_prompt(self) -> int | None: ...

    def reserve(self, blocks: int) -> None:
        """Makes caches of so many blocks. Errors: ResourceExhausted."""
        ...

    def run(self, feeds: Feeds, *, repeats: bool, best: bool) -> Scores:
        """Computes a step; one that `repeats` comes again and again in the same shape. `best` asks for the best too."""
        ...

    def copy(self, source: int, target: int, count: int) -> None:
        """Copies `count` blocks from `source` on to those from `target` on, in every cache."""
        ...

    def close(self) -> None: ...


class PagedDecoderSession:
    """The engine's DecoderSession over a paged graph. Used by one thread at a time.

    Only live rows are computed: a decode takes the next power of two of them, so that a few shapes come again and
    again.
    """

    adapters = None
    state_bytes = 0
    token_bytes = 0  # of the system's memory; the device's is reserved whole
    appends = True

    def __init__(self, graph: PagedGraph, shape: Shape) -> None:
        self.slots = shape.slots
        self.max_len = shape.max_len
        self.vocab_size = graph.vocab_size
        self._graph: PagedGraph | None = graph
        self._shape = shape
        self._blocks = Blocks.holding(shape.slots, shape.max_len, graph.block_size)
        self._long_prompt = shape.max_len if graph.long_prompt is None else graph.long_prompt
        self._packer = Packer(self._blocks, shape.max_len, self._long_prompt)
        graph.reserve(self._blocks.count)

    def decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> Floats:
        """Append tokens[i] to slot first+i, which holds lengths[i]; logits [R, vocab] of the live ones."""
        if len(live) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        return self._decode(first, tokens, lengths, live, best=False).logits()[: len(live)]

    def decode_best(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> Best:
        """As decode, of at least one live row, but no more is fetched than the best logits of each."""
        best = self._decode(first, tokens, lengths, live, best=True).best()
        return Best(best.logits[: len(live)], best.tokens[: len(live)])

    def prefill(self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64], known: int) -> Floats:
        """Append tokens [S] to a slot that holds `past`; logits of those rows of the chunk [R, vocab], R may be 0."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        self._shape.check(slot, np.array([past], np.int32), len(tokens))
        counts, slots, pasts, prompts = (np.array([number]) for number in (len(tokens), slot, past, known))
        # Kernels are not to meet products of no rows, which nothing has tried on a GPU: one is computed in vain.
        wanted = rows if len(rows) else np.zeros(1, np.int64)
        feeds = self._packer.pack(Chunks(tokens, counts, slots, pasts, prompts), wanted)
        scores = self._open.run(feeds, repeats=False, best=False)
        return scores.logits() if len(rows) else np.empty((0, self.vocab_size), np.float32)

    def prefix_class(self, length: int) -> int:
        """Prompts of different classes cache different keys for the same tokens."""
        return int(length > self._long_prompt)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the blocks that the first `length` tokens of one slot are in to another."""
        if used := self._blocks.used(length):
            self._open.copy(source * self._blocks.per_slot, target * self._blocks.per_slot, used)

    def save(self, slot: int) -> None:
        """A slot has no more than its cache."""

    def restore(self, slot: int, saved: None) -> None:
        pass

    def release(self, slot: int, length: int = 0) -> None:
        """Nothing: the device's memory stays reserved for the next sequence."""

    def close(self) -> None:
        self._open.close()
        self._graph = None
        gc.collect()  # what refers to itself would keep the weights until some later collection

    @property
    def _open(self) -> PagedGraph:
        assert self._graph is not None, "the session is closed"
        return self._graph

    def _decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64], *, best: bool
    ) -> Scores:
        self._shape.check(first, lengths, 1)
        past, count = lengths[live], len(live)
        chunks = Chunks(tokens[live], np.ones(count, np.int64), first + live, past, past + 1)
        bucket = 1 << (count - 1).bit_length()
        return self._open.run(self._packer.pack(chunks, np.arange(bucket), bucket), repeats=True, best=best)
