"""A decoder on ONNX Runtime: ragged decode over a range of slots, prefill of one slot."""

import gc
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from narthex_server.runtime.pages import Pages

_BINDINGS = 64


class DecoderSession(Protocol):
    """One loaded decoder with `slots` sequences of at most `max_len` tokens; used by one thread at a time."""

    slots: int
    max_len: int
    vocab_size: int

    def decode(self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Append tokens[i] to slot first+i, which holds lengths[i]; logits [B, vocab], valid until the next call."""
        ...

    def prefill(self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append tokens [S] to a slot that holds `past`; logits of those rows of the chunk [R, vocab], R may be 0."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` cached tokens of one slot to another."""
        ...

    def release(self, slot: int) -> None:
        """Give a slot's memory back to the system."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Cache:
    """One key or value buffer, float32 [slots, kv_heads, max_len, head_dim]; `name` is that of its input and output."""

    name: str
    pages: Pages
    rows: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Step:
    """A binding of one shape to one range of slots, with the buffers that it reads and writes."""

    binding: Any
    tokens: NDArray[np.int64]
    lengths: NDArray[np.int32]
    total: NDArray[np.int32]
    rows: NDArray[np.int64]
    logits: NDArray[np.float32]


class OrtDecoderSession:
    """DecoderSession over a graph with inputs tokens, seqlens_k, total, rows and one key and value cache per layer."""

    def __init__(self, graph: Path, *, slots: int, max_len: int, threads: int) -> None:
        self.slots = slots
        self.max_len = max_len
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin between steps would take the cores that the event loop needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Shapes change with every chunk: remembering an allocation plan for each costs memory and saves nothing.
        options.enable_mem_pattern = False
        self._session: Any = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        shapes = {value.name: value.shape for value in self._session.get_outputs()}
        self.vocab_size = int(shapes["logits"][1])
        self._caches = [
            self._cache(value.name, value.shape) for value in self._session.get_inputs() if len(value.shape) == 4
        ]
        self._steps: OrderedDict[tuple[int, int, int, int], _Step] = OrderedDict()

    def decode(self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        batch = len(tokens)
        if batch == 0:
            return np.empty((0, self.vocab_size), np.float32)  # the attention kernel divides by the batch size
        step = self._step(first, batch, 1, batch)
        step.tokens[:, 0] = tokens
        step.lengths[:] = lengths
        return self._run(step, int(lengths.max()) + 1, np.arange(batch))

    def prefill(self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        step = self._step(slot, 1, len(tokens), len(rows))
        step.tokens[0] = tokens
        step.lengths[:] = past + len(tokens) - 1
        return self._run(step, past + len(tokens), rows)

    def copy(self, source: int, target: int, length: int) -> None:
        for cache in self._caches:
            cache.rows[target, :, :length] = cache.rows[source, :, :length]

    def release(self, slot: int) -> None:
        for cache in self._caches:
            size = cache.rows[0].nbytes
            cache.pages.forget(slot * size, size)

    def close(self) -> None:
        self._steps.clear()
        self._caches.clear()
        self._session = None
        gc.collect()  # what refers to itself would keep the weights until some later collection

    def _cache(self, name: str, shape: Sequence[int | str]) -> _Cache:
        full = (self.slots, int(shape[1]), self.max_len, int(shape[3]))
        pages = Pages(int(np.prod(full)) * 4)
        return _Cache(name, pages, pages.array(full))

    def _run(self, step: _Step, total: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if total > self.max_len:
            raise ValueError(f"{total} tokens do not fit a slot of {self.max_len}")
        step.total[0] = total
        step.rows[:] = rows
        self._session.run_with_iobinding(step.binding)
        return step.logits

    def _step(self, first: int, batch: int, length: int, rows: int) -> _Step:
        """Find or build the binding; building costs about a millisecond, finding nothing."""
        if not 0 <= first <= first + batch <= self.slots:
            raise ValueError(f"slots {first} to {first + batch - 1} of {self.slots}")
        key = (first, batch, length, rows)
        if (step := self._steps.get(key)) is not None:
            self._steps.move_to_end(key)
            return step
        step = self._bind(first, batch, length, rows)
        if rows <= self.slots:  # many rows of logits are large and rare: not worth keeping
            self._steps[key] = step
            if len(self._steps) > _BINDINGS:
                self._steps.popitem(last=False)
        return step

    def _bind(self, first: int, batch: int, length: int, rows: int) -> _Step:
        step = _Step(
            self._session.io_binding(),
            np.zeros((batch, length), np.int64),
            np.zeros(batch, np.int32),
            np.zeros(1, np.int32),
            np.zeros(rows, np.int64),
            np.empty((rows, self.vocab_size), np.float32),
        )
        bind = step.binding
        feeds = (("tokens", step.tokens), ("seqlens_k", step.lengths), ("total", step.total), ("rows", step.rows))
        for name, array in feeds:
            bind.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        bind.bind_output("logits", "cpu", 0, np.float32, step.logits.shape, step.logits.ctypes.data)
        for cache in self._caches:
            view = cache.rows[first : first + batch]
            bind.bind_input(cache.name, "cpu", 0, np.float32, view.shape, view.ctypes.data)
            bind.bind_output(f"new_{cache.name}", "cpu", 0, np.float32, view.shape, view.ctypes.data)
        return step
