"""Batches for graphs whose attention writes into its own past: rows of slots are bound where they lie."""

import gc
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.runtime.foreign.ports import Ports, single_precision
from narthex_server.runtime.session import Shape
from narthex_server.runtime.slot_cache import Numbers
from narthex_server.runtime.slotted import Slotted
from narthex_server.runtime.stepper import fetching_only

_BINDINGS = 64
_VERIFIED = 9
"""Rows of a run that verifies a draft, at most."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A binding of one shape to one range of slots, with what it reads and writes beside them."""

    binding: Any
    feeds: dict[str, NDArray[Any]]
    logits: Numbers
    states: tuple[Numbers, ...]


class InPlaceSession(Slotted):
    """The engine's DecoderSession over a graph of GroupQueryAttention, which counts a row's tokens in the mask.

    So rows are padded on the right: left padding would be silently wrong.
    """

    adapters = None
    batched = True

    def __init__(self, session: Any, ports: Ports, shape: Shape) -> None:
        self.slots = shape.slots
        self.max_len = shape.max_len
        self._shape = shape
        self.vocab_size = ports.vocab_size
        self._session = session
        self._ports = ports
        self._presents = {cache.past: cache.present for cache in ports.caches}
        self._cache = ports.slot_cache(shape.slots, shape.max_len)
        self.state_bytes = self._cache.state_bytes
        self._steps: OrderedDict[tuple[int, int, int, int], _Step] = OrderedDict()
        self._options = fetching_only()

    def decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Append tokens[i] to slot first+i, which holds lengths[i]; logits of the live rows [R, vocab]."""
        if len(live) == 0:
            return np.empty((0, self.vocab_size), np.float32)  # the attention kernel divides by the batch size
        return single_precision(self._append(first, tokens[:, None], lengths, 1, live)[live, 0])

    def prefill(
        self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64], known: int
    ) -> NDArray[np.float32]:
        """Append tokens [S] to a slot that holds `past`; logits of those rows of the chunk [R, vocab], R may be 0."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        kept = self._ports.kept(len(tokens), rows) if len(rows) else 0
        logits = self._append(slot, tokens[None], np.array([past], np.int32), kept, np.zeros(1, np.int64))
        return single_precision(logits[0, rows - (len(tokens) - kept)])

    def prefix_class(self, length: int) -> int:
        return 0

    def close(self) -> None:
        self._steps.clear()
        self._cache.close()
        self._session = None
        gc.collect()  # what refers to itself would keep the weights until some later collection

    def _append(
        self, first: int, tokens: NDArray[np.int64], past: NDArray[np.int32], kept: int, live: NDArray[np.int64]
    ) -> Numbers:
        """Logits [B, kept, vocab], valid until the next call of the same shape."""
        batch, length = tokens.shape
        self._shape.check(first, past, length)
        for row in live[past[live] == 0].tolist():
            self._cache.reset(first + row)
        mask = np.arange(past.max() + length) < (past + length)[:, None]
        feeds = self._ports.feeds(tokens, past, mask, max(kept, 1))
        step = self._step(first, batch, length, kept)
        for name, value in feeds.items():
            if (held := step.feeds.get(name)) is not None and held.shape == value.shape:
                held[...] = value
            else:  # the mask, which grows, and all when the step is new
                step.feeds[name] = value
                step.binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        self._session.run_with_iobinding(step.binding, self._options)
        for buffer, state in zip(self._cache.states, step.states, strict=True):
            buffer.rows[first + live] = state[live]
        return step.logits

    def _step(self, first: int, batch: int, length: int, kept: int) -> _Step:
        """Find or build the binding; building costs about a millisecond, finding nothing."""
        key = (first, batch, length, kept)
        if (step := self._steps.get(key)) is not None:
            self._steps.move_to_end(key)
            return step
        step = self._bind(first, batch, kept)
        if kept <= _VERIFIED:  # many rows of logits are large and rare: not worth keeping
            self._steps[key] = step
            if len(self._steps) > _BINDINGS:
                self._steps.popitem(last=False)
        return step

    def _bind(self, first: int, batch: int, kept: int) -> _Step:
        bind, slots = self._session.io_binding(), slice(first, first + batch)
        logits: Numbers = np.empty((batch, kept, self.vocab_size), self._ports.logits_dtype)
        states = tuple(np.empty_like(buffer.rows[slots]) for buffer in self._cache.states)
        outputs = {self._presents[buffer.name]: buffer.rows[slots] for buffer in self._cache.positions}
        outputs |= {self._presents[buffer.name]: new for buffer, new in zip(self._cache.states, states, strict=True)}
        if kept:
            outputs[self._ports.logits] = logits
        for buffer in (*self._cache.positions, *self._cache.states):
            view = buffer.rows[slots]
            bind.bind_input(buffer.name, "cpu", 0, view.dtype, view.shape, view.ctypes.data)
        for name, array in outputs.items():
            bind.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return _Step(bind, {}, logits, states)
