"""A paged graph on an NVIDIA GPU: its caches, one binding per shape, and captured CUDA graphs for what repeats."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from narthex_server.errors import NarthexError, NotOnDevice, ResourceExhausted
from narthex_server.runtime.device import Cuda
from narthex_server.runtime.paged.packer import Feeds
from narthex_server.runtime.paged.session import Best

_HALVES = {"tensor(float16)": 10, "tensor(bfloat16)": 16}
"""ONNX's numbers for the types that caches have; both take two bytes."""
_WIDTH = 2
_IN_HOST_MEMORY = "attention_metadata"
_BINDINGS = 16
_OUT_OF_MEMORY = ("out of memory", "Failed to allocate memory", "Available memory")
_LOGITS, _BEST = "logits", ("best_logits", "best_tokens")


def open_session(graph: Path, device: Cuda, *, captures: bool) -> Any:
    """Start ONNX Runtime on a graph, on a GPU. Errors: NotOnDevice; ResourceExhausted where its memory is too small."""
    options = ort.SessionOptions()
    options.enable_mem_pattern = False  # plans for shapes that do not come again
    provider = {
        "device_id": str(device.index),
        "enable_cuda_graph": str(int(captures)),
        # Weights and caches are there at once, and later steps need little: doubling what is reserved would waste much.
        "arena_extend_strategy": "kSameAsRequested",
    }
    try:
        session = ort.InferenceSession(graph, options, providers=[("CUDAExecutionProvider", provider)])
    except Exception as error:  # the library has a class for each of its status codes, without a common root
        raise _failed(error, device, "the weights do not fit") from error
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise NotOnDevice(f"{device} cannot be opened; ONNX Runtime's log says why")
    return session


class CudaGraph:
    """The session's PagedGraph on a GPU. Used by one thread at a time.

    `graph` is a model over PagedAttention, `copying` copies `source` to `target`.
    """

    def __init__(self, graph: Path, copying: Path, device: Cuda) -> None:
        self._device = device
        self._session = open_session(graph, device, captures=True)
        self._copying = open_session(copying, device, captures=False)
        inputs = self._session.get_inputs()
        self._shapes = {value.name: value.shape[1:] for value in inputs if value.shape[0] == "blocks"}
        self._type = next(_HALVES[value.type] for value in inputs if value.name in self._shapes)
        self._takes = {value.name for value in inputs} - self._shapes.keys()
        self._widths = {value.name: value.shape[-1] for value in self._session.get_outputs()}
        noted = self._session.get_modelmeta().custom_metadata_map.get("long_prompt")
        self.long_prompt = None if noted is None else int(noted)
        self.vocab_size = int(self._widths[_LOGITS])
        self.block_size = int(next(iter(self._shapes.values()))[0])
        self._caches: dict[str, Any] = {}
        self._repeated: dict[tuple[object, ...], _Step] = {}
        self._others: OrderedDict[tuple[object, ...], _Step] = OrderedDict()

    def reserve(self, blocks: int) -> None:
        """Make the caches, of zeros: a kernel may multiply what nobody has written by 0. Errors: ResourceExhausted."""
        shapes = {name: (blocks, *shape) for name, shape in self._shapes.items()}
        size = sum(int(np.prod(shape)) for shape in shapes.values()) * _WIDTH
        try:
            for name, shape in shapes.items():
                zeros = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.zeros(shape, np.uint16), self._type)
                self._caches[name] = self._empty(shape, self._type)
                self._caches[name].update_inplace(zeros)
        except Exception as error:
            self._caches.clear()
            what = f"{size:,} bytes of keys and values do not fit; lower --max-slots or --max-context"
            raise _failed(error, self._device, what) from error

    def run(self, feeds: Feeds, *, repeats: bool, best: bool) -> "_Step":
        """Compute a step; the second time that one which `repeats` comes, its captured CUDA graph is launched."""
        key = (*(feeds[name].shape for name in sorted(self._takes)), best)
        steps = self._repeated if repeats else self._others
        if (step := steps.get(key)) is None:
            step = steps[key] = self._bind(feeds, len(self._repeated) if repeats else -1, best)
        if not repeats:
            self._others.move_to_end(key)
            if len(self._others) > _BINDINGS:
                self._others.popitem(last=False)
        step.feed(feeds)
        self._session.run_with_iobinding(step.binding, step.options)
        return step

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy `count` blocks within each cache, by the addresses where they lie."""
        for name, shape in self._shapes.items():
            values, start = int(np.prod(shape)), self._caches[name].data_ptr()
            binding = self._copying.io_binding()
            where = ("cuda", self._device.index, self._type, (count * values,))
            binding.bind_input("source", *where, start + source * values * _WIDTH)
            binding.bind_output("target", *where, start + target * values * _WIDTH)
            self._copying.run_with_iobinding(binding)

    def close(self) -> None:
        self._repeated.clear()
        self._others.clear()
        self._caches.clear()
        self._session = self._copying = None

    def _empty(self, shape: tuple[int, ...], kind: Any) -> Any:
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cuda", self._device.index)

    def _bind(self, feeds: Feeds, graph_id: int, best: bool) -> "_Step":
        binding = self._session.io_binding()
        inputs: dict[str, Any] = {}
        for name in self._takes - {_IN_HOST_MEMORY}:
            inputs[name] = self._empty(feeds[name].shape, feeds[name].dtype.type)
            binding.bind_ortvalue_input(name, inputs[name])
        bounds = feeds[_IN_HOST_MEMORY].copy()
        binding.bind_cpu_input(_IN_HOST_MEMORY, bounds)
        rows = len(feeds["rows"])
        types = {_LOGITS: np.float32} | (dict(zip(_BEST, (np.float32, np.int64), strict=True)) if best else {})
        outputs = {name: self._empty((rows, int(self._widths[name])), kind) for name, kind in types.items()}
        for name, cache in self._caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(f"new_{name}", cache)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
        return _Step(binding, options, inputs, outputs, {})


@dataclass(frozen=True, slots=True)
class _Step:
    """A binding of one shape, with the buffers on the GPU that it reads and writes, and what was sent there last."""

    binding: Any
    options: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    sent: dict[str, bytes]

    def feed(self, feeds: Feeds) -> None:
        """Send what has changed since the last step of this shape: a copy takes longer than to see that none is due."""
        for name, value in self.inputs.items():
            if self.sent.get(name) != (new := feeds[name].tobytes()):
                value.update_inplace(np.ascontiguousarray(feeds[name]))
                self.sent[name] = new

    def logits(self) -> NDArray[np.float32]:
        return np.asarray(self.outputs[_LOGITS].numpy())

    def best(self) -> Best:
        return Best(*(np.asarray(self.outputs[name].numpy()) for name in _BEST))


def _failed(error: Exception, device: Cuda, exhausted: str) -> NarthexError:
    """What an error of ONNX Runtime means: `exhausted` where it is about memory."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    if any(sign in reason for sign in _OUT_OF_MEMORY):
        return ResourceExhausted(f"{device}: {exhausted} ({reason})")
    return NotOnDevice(f"{device}: ONNX Runtime cannot run this model there: {reason}")
