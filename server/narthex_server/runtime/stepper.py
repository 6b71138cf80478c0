"""Runs one decoder graph over one slot cache, a rectangle of tokens at a time."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from narthex_server.runtime.slot_cache import Numbers, SlotCache

_BINDINGS = 64
Arrays = Mapping[str, NDArray[np.generic]]


def open_session(graph: Path, threads: int) -> Any:
    """Start ONNX Runtime on a graph, on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between steps would take the cores that the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Shapes change with every chunk: remembering an allocation plan for each costs memory and saves nothing.
    options.enable_mem_pattern = False
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def fetching_only() -> Any:
    """Options of runs that compute no more than the outputs that are asked for."""
    options = ort.RunOptions()
    options.only_execute_path_to_fetches = True
    # Its value means nothing here, but looking for one that is not there takes ONNX Runtime 30 us a run.
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options


@dataclass(frozen=True, slots=True)
class Tokens:
    """`batch` [B, S] goes after `past` [B] tokens of slots first.., in prompts of `known` [B] tokens.

    `rows` [R] names the flat positions in the batch whose output is wanted; rows of the batch that are not `live` [L]
    leave their slot's states as they were.
    """

    first: int
    batch: NDArray[np.int64]
    past: NDArray[np.int32]
    known: NDArray[np.int32]
    rows: NDArray[np.int64]
    live: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Others:
    """Further inputs: `values` change with every run, `buffers` stay bound where they lie until the stepper forgets.

    Equal keys mean the same buffers.
    """

    values: Arrays
    buffers: Arrays
    key: Hashable = None


NO_OTHERS = Others(MappingProxyType({}), MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class _Step:
    """A binding of one shape to one range of slots, with the buffers that it reads and writes."""

    binding: Any
    feeds: Arrays
    output: NDArray[np.float32]
    states: tuple[Numbers, ...]
    buffers: Arrays


class Stepper:
    """Computes the graph's output `output` [R, width] of chosen tokens; valid until the next run of the same shape."""

    def __init__(self, session: Any, cache: SlotCache, output: str) -> None:
        self._session = session
        self._cache = cache
        self._output = output
        self._takes = {value.name for value in session.get_inputs()}
        self.width = next(int(value.shape[-1]) for value in session.get_outputs() if value.name == output)
        self._steps: OrderedDict[tuple[object, ...], _Step] = OrderedDict()
        self._options = fetching_only()

    def run(self, tokens: Tokens, others: Others = NO_OTHERS) -> NDArray[np.float32]:
        """Run the graph."""
        step = self._step(tokens, others)
        length = tokens.batch.shape[1]
        values: tuple[tuple[str, Any], ...] = (
            ("tokens", tokens.batch), ("seqlens_k", tokens.past + (length - 1)), ("rows", tokens.rows),
            ("total", tokens.past.max() + length), ("known", tokens.known), *others.values.items(),
        )  # fmt: skip
        for name, value in values:
            if name in step.feeds:
                step.feeds[name][...] = value
        self._session.run_with_iobinding(step.binding, self._options)
        for buffer, state in zip(self._cache.states, step.states, strict=True):
            buffer.rows[tokens.first + tokens.live] = state[tokens.live]
        return step.output

    def forget(self) -> None:
        """Let go of all that is bound: other buffers take its place."""
        self._steps.clear()

    def close(self) -> None:
        self.forget()
        self._session = None

    def _step(self, tokens: Tokens, others: Others) -> _Step:
        """Find or build the binding; building costs about a millisecond, finding nothing."""
        shapes = tuple(value.shape for value in others.values.values())
        key = (tokens.first, tokens.batch.shape, len(tokens.rows), shapes, others.key)
        if (step := self._steps.get(key)) is not None:
            self._steps.move_to_end(key)
            return step
        step = self._bind(tokens, others)
        if len(tokens.rows) <= self._cache.slots:  # many rows are large and rare: not worth keeping
            self._steps[key] = step
            if len(self._steps) > _BINDINGS:
                self._steps.popitem(last=False)
        return step

    def _bind(self, tokens: Tokens, others: Others) -> _Step:
        batch, length = tokens.batch.shape
        feeds: dict[str, NDArray[np.generic]] = {
            "tokens": np.zeros((batch, length), np.int64),
            "seqlens_k": np.zeros(batch, np.int32),
            "total": np.zeros(1, np.int32),
            "rows": np.zeros(len(tokens.rows), np.int64),
            "known": np.zeros(batch, np.int32),
            **{name: np.empty(value.shape, value.dtype) for name, value in others.values.items()},
        }
        feeds = {name: array for name, array in feeds.items() if name in self._takes}
        bind = self._session.io_binding()
        for name, array in (*feeds.items(), *others.buffers.items()):
            bind.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        output = np.empty((len(tokens.rows), self.width), np.float32)
        outputs: dict[str, Numbers] = {self._output: output}
        views = slice(tokens.first, tokens.first + batch)
        for buffer in self._cache.positions:
            outputs[f"new_{buffer.name}"] = buffer.rows[views]
        states = tuple(np.empty_like(buffer.rows[views]) for buffer in self._cache.states)
        outputs |= {f"new_{buffer.name}": new for buffer, new in zip(self._cache.states, states, strict=True)}
        for buffer in (*self._cache.positions, *self._cache.states):
            view = buffer.rows[views]
            bind.bind_input(buffer.name, "cpu", 0, np.float32, view.shape, view.ctypes.data)
        for name, array in outputs.items():
            bind.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return _Step(bind, feeds, output, states, others.buffers)
