"""A decoder on ONNX Runtime: ragged decode over a range of slots, prefill of one slot."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.runtime.slot_cache import Saved, SlotCache
from narthex_server.runtime.stepper import Stepper, Tokens, open_session


class OrtDecoderSession:
    """The engine's DecoderSession over a graph with inputs tokens, rows, one cache per layer, and what attention adds.

    Used by one thread at a time.
    """

    adapters = None

    def __init__(self, graph: Path, *, slots: int, max_len: int, threads: int) -> None:
        self.slots = slots
        self.max_len = max_len
        session = open_session(graph, threads)
        self._cache = cache_of(session, slots, max_len)
        self._stepper = Stepper(session, self._cache, "logits")
        self.vocab_size = self._stepper.width
        self.stateful = bool(self._cache.states)
        self._long_prompt = int(session.get_modelmeta().custom_metadata_map.get("long_prompt", max_len))

    def decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Append tokens[i] to slot first+i, which holds lengths[i]; logits [R, vocab], valid until the next call."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)  # the attention kernel divides by the batch size
        self._check(first, lengths, 1)
        for row in live[lengths[live] == 0].tolist():
            self._cache.reset(first + row)
        return self._stepper.run(Tokens(first, tokens[:, None], lengths, lengths + 1, live, live))

    def prefill(
        self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64], known: int
    ) -> NDArray[np.float32]:
        """Append tokens [S] to a slot that holds `past`; logits of those rows of the chunk [R, vocab], R may be 0."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        lengths = np.array([past], np.int32)
        self._check(slot, lengths, len(tokens))
        if past == 0:
            self._cache.reset(slot)
        known_tokens = np.array([known], np.int32)
        return self._stepper.run(Tokens(slot, tokens[None], lengths, known_tokens, rows, np.zeros(1, np.int64)))

    def prefix_class(self, length: int) -> int:
        """Prompts of different classes cache different keys for the same tokens."""
        return int(length > self._long_prompt)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` cached tokens of one slot to another, and the state that it is in."""
        self._cache.copy(source, target, length)

    def save(self, slot: int) -> Saved:
        return self._cache.save(slot)

    def restore(self, slot: int, saved: Saved) -> None:
        self._cache.restore(slot, saved)

    def release(self, slot: int) -> None:
        """Give a slot's memory back to the system."""
        self._cache.release(slot)

    def close(self) -> None:
        self._stepper.close()
        self._cache.close()
        gc.collect()  # what refers to itself would keep the weights until some later collection

    def _check(self, first: int, past: NDArray[np.int32], length: int) -> None:
        if not 0 <= first <= first + len(past) <= self.slots:
            raise ValueError(f"slots {first} to {first + len(past) - 1} of {self.slots}")
        if (total := int(past.max()) + length) > self.max_len:
            raise ValueError(f"{total} tokens do not fit a slot of {self.max_len}")


def cache_of(session: Any, slots: int, max_len: int) -> SlotCache:
    """Make the cache that a graph asks for: those of its inputs whose first extent is `slots`."""
    inputs = (
        (value.name, value.shape, np.float32)
        for value in session.get_inputs()
        if value.shape and value.shape[0] == "slots"
    )
    return SlotCache(inputs, slots, max_len)
