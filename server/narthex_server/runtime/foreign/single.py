"""One sequence at a time: what every decoder graph can do."""

import gc
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.runtime.foreign.growing import Caches, GrowingGraph
from narthex_server.runtime.foreign.ports import Ports
from narthex_server.runtime.session import Shape

_LAST = np.zeros(1, np.int64)


class SingleSession:
    """The engine's DecoderSession over a graph that runs each row alone; a slot holds what the graph gave last."""

    adapters = None
    batched = False
    appends = True

    def __init__(self, session: Any, ports: Ports, shape: Shape) -> None:
        self.slots = shape.slots
        self.max_len = shape.max_len
        self._shape = shape
        self.vocab_size = ports.vocab_size
        self._graph = GrowingGraph(session, ports)
        extents: dict[int | str, int | str] = {"slots": 1, "max_len": 0}
        self._start: Caches = {
            cache.past: np.zeros([int(extents.get(extent, extent)) for extent in cache.shape], cache.dtype)
            for cache in ports.caches
        }
        self._grow = {cache.past for cache in ports.caches if "max_len" in cache.shape}
        extents["max_len"] = 1
        self.token_bytes = sum(
            math.prod(int(extents.get(extent, extent)) for extent in cache.shape) * np.dtype(cache.dtype).itemsize
            for cache in ports.caches
            if "max_len" in cache.shape
        )
        self.state_bytes = sum(rows.nbytes for name, rows in self._start.items() if name not in self._grow)
        self._held: list[Caches] = [self._start] * shape.slots

    def decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Append tokens[i] to slot first+i, which holds lengths[i], for the live rows; their logits [R, vocab]."""
        rows = [self._append(first + i, tokens[i : i + 1], int(lengths[i]), _LAST) for i in live.tolist()]
        return np.concatenate(rows) if rows else np.empty((0, self.vocab_size), np.float32)

    def prefill(
        self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64], known: int
    ) -> NDArray[np.float32]:
        """Append tokens [S] to a slot that holds `past`; logits of those rows of the chunk [R, vocab], R may be 0."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        return self._append(slot, tokens, past, rows)

    def prefix_class(self, length: int) -> int:
        return 0

    def copy(self, source: int, target: int, length: int) -> None:
        """Let another slot begin as this one does; nothing is copied, for nothing is written in place."""
        self._held[target] = self._first(source, length)

    def save(self, slot: int) -> Caches:
        return {name: rows for name, rows in self._held[slot].items() if name not in self._grow}

    def restore(self, slot: int, saved: Caches) -> None:
        self._held[slot] = {**self._held[slot], **saved}

    def release(self, slot: int, length: int = 0) -> None:
        self._held[slot] = self._first(slot, length)

    def close(self) -> None:
        self._graph.close()
        self._held.clear()
        gc.collect()  # what refers to itself would keep the weights until some later collection

    def _append(self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        lengths = np.array([past], np.int32)
        self._shape.check(slot, lengths, len(tokens))
        held, mask = self._first(slot, past), np.ones((1, past + len(tokens)), np.bool_)
        logits, self._held[slot] = self._graph.run(tokens[None], lengths, mask, held, rows)
        return logits

    def _first(self, slot: int, length: int) -> Caches:
        """What a slot holds of its first tokens, and its state as it is."""
        if length == 0:
            return self._start
        held = self._held[slot]
        return {name: rows[:, :, :length] if name in self._grow else rows for name, rows in held.items()}
