"""A decoder on ONNX Runtime: ragged decode over a range of slots, prefill of one slot."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.runtime.adapter_bank import Adapter, AdapterBank, Limits
from narthex_server.runtime.crossing import crossing
from narthex_server.runtime.slot_cache import SlotCache
from narthex_server.runtime.slotted import Slotted
from narthex_server.runtime.stepper import NO_OTHERS, Others, Stepper, Tokens, open_session

Floats = NDArray[np.float32]
ROW = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class Shape:
    """How many sequences of how many tokens a session holds, and the threads that compute them.

    `int8_cache` says that the graph keeps keys and values as int8, for which other kernels are faster.
    """

    slots: int
    max_len: int
    threads: int
    int8_cache: bool = False

    def check(self, first: int, past: NDArray[np.int32], length: int) -> None:
        """Raise ValueError for slots that there are not, or more tokens than a slot takes."""
        if not 0 <= first <= first + len(past) <= self.slots:
            raise ValueError(f"slots {first} to {first + len(past) - 1} of {self.slots}")
        if (total := int(past.max()) + length) > self.max_len:
            raise ValueError(f"{total} tokens do not fit a slot of {self.max_len}")


class Adapted:
    """A second graph over the same cache, for steps in which some row uses adapters; each slot has its own blend."""

    def __init__(self, graph: Path, shape: Shape, limits: Limits, cache: SlotCache) -> None:
        session = open_session(graph, shape.threads, shape.int8_cache)
        self.bank = AdapterBank(session.get_modelmeta().custom_metadata_map["adapted"], limits)
        self.stepper = Stepper(session, cache, "logits")
        self._blends = np.zeros((shape.slots, limits.count), np.float32)

    @property
    def capacity(self) -> int:
        return self.bank.limits.count

    def check(self, adapter: Adapter) -> None:
        """Errors: FailedPrecondition for another model's adapter, ResourceExhausted for one beyond the limits."""
        self.bank.check(adapter)

    def load(self, place: int, adapter: Adapter) -> None:
        self.bank.load(place, adapter)
        self.stepper.forget()

    def unload(self, place: int) -> None:
        self.bank.unload(place)
        self.stepper.forget()

    def close(self) -> None:
        """Free everything but the measures."""
        self.stepper.close()
        self.bank.close()

    def choose(self, slot: int, blend: Floats) -> None:
        """From now on a slot computes with so much [capacity] of each adapter."""
        self._blends[slot] = blend

    def others(self, first: int, rows: NDArray[np.int64], batch: int) -> Others | None:
        """The inputs for a step of these rows; None if none of them uses an adapter."""
        blends = self._blends[first : first + batch]
        used = np.flatnonzero(blends[rows].any(axis=0)).tolist()
        if not used:
            return None
        bound = self.bank.inputs(used)
        return Others(MappingProxyType({"scales": blends[:, None]}), bound.buffers, bound.windows)


class OrtDecoderSession(Slotted):
    """The engine's DecoderSession over a graph with inputs tokens, rows, one cache per layer, and what attention adds.

    `wide` is a graph over the same cache for steps of many tokens, `adapted` one for steps with adapters. Used by one
    thread at a time.
    """

    def __init__(
        self, graph: Path, shape: Shape, adapted: Path | None = None, limits: Limits = Limits(),  # noqa: B008 (frozen)
        wide: Path | None = None,
    ) -> None:  # fmt: skip
        self.slots = shape.slots
        self.max_len = shape.max_len
        session = open_session(graph, shape.threads, shape.int8_cache)
        self._shape = shape
        self._cache = cache_of(session, shape.slots, shape.max_len)
        self._stepper = Stepper(session, self._cache, "logits")
        self._wide = self._stepper
        self.adapters = Adapted(adapted, shape, limits, self._cache) if adapted else None
        self.vocab_size = self._stepper.width
        self.state_bytes = self._cache.state_bytes
        self._long_prompt = long_prompt(session, shape)
        self._wide_from = 0
        if wide is not None:
            self._wide = Stepper(open_session(wide, shape.threads, shape.int8_cache), self._cache, "logits")
            self._wide_from = crossing(self._stepper, self._wide, self.max_len)
            self._cache.reset(0)
            self._cache.release(0)

    def decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Append tokens[i] to slot first+i, which holds lengths[i]; logits [R, vocab], valid until the next call."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)  # the attention kernel divides by the batch size
        self._shape.check(first, lengths, 1)
        for row in live[lengths[live] == 0].tolist():
            self._cache.reset(first + row)
        return self._run(Tokens(first, tokens[:, None], lengths, lengths + 1, live, live))

    def prefill(
        self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64], known: int
    ) -> NDArray[np.float32]:
        """Append tokens [S] to a slot that holds `past`; logits of those rows of the chunk [R, vocab], R may be 0."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        lengths = np.array([past], np.int32)
        self._shape.check(slot, lengths, len(tokens))
        if past == 0:
            self._cache.reset(slot)
        return self._run(Tokens(slot, tokens[None], lengths, np.array([known], np.int32), rows, ROW))

    def cached(self, slot: int, length: int) -> Mapping[str, NDArray[np.floating[Any]]]:
        """The first `length` positions of a slot's caches by name, each a view [kv_heads, length, size]."""
        return {buffer.name: buffer.rows[slot, :, :length] for buffer in self._cache.positions}

    def prefix_class(self, length: int) -> int:
        """Prompts of different classes cache different keys for the same tokens."""
        return int(length > self._long_prompt)

    def close(self) -> None:
        self._stepper.close()
        self._wide.close()
        if self.adapters is not None:
            self.adapters.close()
        self._cache.close()
        gc.collect()  # what refers to itself would keep the weights until some later collection

    def _run(self, tokens: Tokens) -> NDArray[np.float32]:
        if self.adapters is not None:
            others = self.adapters.others(tokens.first, tokens.live, len(tokens.batch))
            if others is not None:
                return self.adapters.stepper.run(tokens, others)
        stepper = self._stepper if tokens.batch.size < self._wide_from else self._wide
        return stepper.run(tokens, NO_OTHERS)


def cache_of(session: Any, slots: int, max_len: int) -> SlotCache:
    """Make the cache that a graph asks for: those of its inputs whose first extent is `slots`."""
    kinds = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
    inputs = (
        (value.name, value.shape, kinds[value.type])
        for value in session.get_inputs()
        if value.shape and value.shape[0] == "slots"
    )
    return SlotCache(inputs, slots, max_len)


def long_prompt(session: Any, shape: Shape) -> int:
    """The longest prompt that is not computed as a long one."""
    return int(session.get_modelmeta().custom_metadata_map.get("long_prompt", shape.max_len))
