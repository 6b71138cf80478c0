"""Paged graphs in NumPy: ONNX's reference evaluator, with the operators that are ONNX Runtime's own.

Each computes in float32 and rounds its result to the type of its input, as the kernels do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
from narthex_server.cuda import PagedGraphs
from narthex_server.graphs import Variant
from narthex_server.opening import open_model
from narthex_server.progress import unheard
from narthex_server.runtime.cache import GraphCache
from narthex_server.runtime.paged.packer import Feeds
from narthex_server.runtime.paged.session import Best
from numpy.typing import NDArray
from onnx import load_model
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = NDArray[Any]
BLOCK = 16
"""Tokens of a block here, so that the prompts need several; the graph only reads it from its caches."""

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NOTHING = np.zeros(0, np.float32)


def wide(x: Array | None) -> Array:
    assert x is not None
    return x.astype(np.float32)


class FusedMatMul(OpRun):
    op_domain = "com.microsoft"

    def _run(self, a: Array, b: Array, transB: int = 0) -> tuple[Array]:
        return ((wide(a) @ (wide(b).T if transB else wide(b))).astype(a.dtype),)


class Pad(OpRun):
    """With negative numbers too, which the evaluator's own has not."""

    op_domain = ""

    def _run(self, x: Array, pads: Array, mode: str = "constant") -> tuple[Array]:
        before, after = np.split(pads, 2)
        kept = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for b, a, n in zip(before, after, x.shape, strict=True))]
        return (np.pad(kept, [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]),)


class QuickGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, alpha: float = 1.702) -> tuple[Array]:
        return ((wide(x) / (1 + np.exp(-alpha * wide(x)))).astype(x.dtype),)


class SimplifiedLayerNormalization(OpRun):
    op_domain = ""

    def _run(self, x: Array, gain: Array, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> tuple[Array]:
        return (rms(wide(x), gain, epsilon).astype(x.dtype),)


class SkipSimplifiedLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, skip: Array, gain: Array, epsilon: float = 1e-5) -> tuple[Array, ...]:
        total = wide(x) + wide(skip)
        return rms(total, gain, epsilon).astype(x.dtype), NOTHING, NOTHING, total.astype(x.dtype)


class SkipLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, skip: Array, gain: Array, shift: Array, epsilon: float = 1e-5) -> tuple[Array, ...]:
        total = wide(x) + wide(skip)
        centred = total - total.mean(axis=-1, keepdims=True)
        normal = rms(centred, gain, epsilon) + wide(shift)
        return normal.astype(x.dtype), NOTHING, NOTHING, total.astype(x.dtype)


def rms(x: Array, gain: Array, epsilon: float) -> Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(epsilon)) * wide(gain)


def unpacked(blocks: Array, bits: int) -> Array:
    """uint8 [..., bytes of a block] as signed numbers [..., block]."""
    if bits == 8:
        return blocks.astype(np.float32) - 128
    return np.stack((blocks & 15, blocks >> 4), axis=-1).reshape(*blocks.shape[:-1], -1).astype(np.float32) - 8


class MatMulNBits(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self, a: Array, b: Array, scales: Array, zeros: None = None, order: None = None, bias: Array | None = None,
        K: int = 0, N: int = 0, bits: int = 4, block_size: int = 32, accuracy_level: int = 0,
    ) -> tuple[Array]:  # fmt: skip
        matrix = (unpacked(b, bits) * wide(scales).reshape(N, -1, 1)).reshape(N, K)
        product = wide(a) @ matrix.T
        return ((product if bias is None else product + wide(bias)).astype(a.dtype),)


class GatherBlockQuantized(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self, data: Array, indices: Array, scales: Array,
        bits: int = 4, block_size: int = 32, gather_axis: int = 0, quantize_axis: int = 2,
    ) -> tuple[Array]:  # fmt: skip
        return ((unpacked(data[indices], bits) * wide(scales[indices])).astype(scales.dtype),)


def turned(x: Array, cosines: Array, sines: Array) -> Array:
    """The first 2n values of each head of x [T, heads, size] turned by tables [T, n]."""
    half = cosines.shape[1]
    first, second = x[..., :half], x[..., half : 2 * half]
    cosines, sines = wide(cosines)[:, None], wide(sines)[:, None]
    rotated = (first * cosines - second * sines, second * cosines + first * sines, x[..., 2 * half :])
    return np.concatenate(rotated, axis=-1)


class RotaryEmbedding(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self, x: Array, positions: Array, cosines: Array, sines: Array,
        num_heads: int = 0, rotary_embedding_dim: int = 0, interleaved: int = 0,
    ) -> tuple[Array]:  # fmt: skip
        heads = wide(x)[0].reshape(x.shape[1], num_heads, -1)
        return (turned(heads, cosines[positions[0]], sines[positions[0]]).reshape(x.shape).astype(x.dtype),)


class PagedAttention(OpRun):
    """Reads a sequence's past by its blocks; writes each new token where it is told to, or nowhere."""

    op_domain = "com.microsoft"

    def _run(
        self, query: Array, key: Array, value: Array, keys: Array, values: Array,
        starts: Array, past: Array, table: Array, cosines: Array | None = None, sines: Array | None = None,
        places: Array | None = None, sink: Array | None = None, qnorm: None = None, knorm: None = None,
        kscale: None = None, vscale: None = None, most: Array | None = None,
        num_heads: int = 0, kv_num_heads: int = 0, do_rotary: int = 0, rotary_interleaved: int = 0,
        local_window_size: int = -1, softcap: float = 0.0, scale: float = 0.0,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        size, block = keys.shape[3], keys.shape[1]
        q = wide(query).reshape(-1, num_heads, size)
        k, v = (wide(x).reshape(-1, kv_num_heads, size) for x in (key, value))
        assert places is not None and most is not None
        assert starts[-1] == len(q) == len(places) and len(starts) == len(past) + 1 == len(table) + 1
        assert most[0] >= np.diff(starts).max() and most[1] >= (past + np.diff(starts)).max()
        if do_rotary:
            assert cosines is not None and sines is not None
            at = np.concatenate([past[i] + np.arange(starts[i + 1] - starts[i]) for i in range(len(past))])
            q, k = turned(q, cosines[at], sines[at]), turned(k, cosines[at], sines[at])
        kept = places >= 0
        for cache, new in ((keys, k), (values, v)):
            cache.reshape(-1, *cache.shape[2:])[places[kept]] = new[kept].astype(cache.dtype)
        out = np.empty_like(q)
        for i, (begin, end) in enumerate(pairwise(starts)):
            total = past[i] + end - begin
            there = table[i, np.arange(total) // block] * block + np.arange(total) % block
            everything = (wide(cache.reshape(-1, *cache.shape[2:])[there]) for cache in (keys, values))
            all_k, all_v = (np.repeat(x, num_heads // kv_num_heads, axis=1) for x in everything)
            scores = np.einsum("qhd,khd->hqk", q[begin:end], all_k) * (scale or size**-0.5)
            scores = softcap * np.tanh(scores / softcap) if softcap else scores
            back = (past[i] + np.arange(end - begin))[:, None] - np.arange(total)
            hidden = (back < 0) | ((back >= local_window_size) if local_window_size > 0 else False)
            scores = np.where(hidden, -np.inf, scores)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[begin:end] = np.einsum("hqk,khd->qhd", weights / weights.sum(axis=-1, keepdims=True), all_v)
        return out.reshape(len(q), -1).astype(query.dtype), keys, values


OPERATORS = [
    FusedMatMul, Pad, QuickGelu, SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization, SkipLayerNormalization,
    MatMulNBits, GatherBlockQuantized, RotaryEmbedding, PagedAttention,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluated:
    found: dict[str, Array]

    def logits(self) -> NDArray[np.float32]:
        return np.asarray(self.found["logits"])

    def best(self) -> Best:
        return Best(self.found["best_logits"], self.found["best_tokens"])


class ReferenceGraph:
    """The session's PagedGraph, evaluated in NumPy; what nobody has written to its caches is not a number."""

    block_size: ClassVar[int] = BLOCK

    def __init__(self, path: Path, compute: str) -> None:
        model = load_model(path)
        self._evaluator = ReferenceEvaluator(model, new_ops=OPERATORS)
        self._shapes = {
            value.name: [extent.dim_value for extent in value.type.tensor_type.shape.dim[2:]]
            for value in model.graph.input
            if value.type.tensor_type.shape.dim[0].dim_param == "blocks"
        }
        self._takes = {value.name for value in model.graph.input} - self._shapes.keys()
        self._dtype = DTYPES[compute]
        noted = {note.key: note.value for note in model.metadata_props}
        self.long_prompt = int(noted["long_prompt"]) if "long_prompt" in noted else None
        logits = next(value for value in model.graph.output if value.name == "logits")
        self.vocab_size = int(logits.type.tensor_type.shape.dim[1].dim_value)
        self.caches: dict[str, Array] = {}
        self.shapes_that_repeat: set[tuple[int, ...]] = set()

    def reserve(self, blocks: int) -> None:
        self.caches = {
            name: np.full((blocks, BLOCK, *shape), np.nan, self._dtype) for name, shape in self._shapes.items()
        }

    def run(self, feeds: Feeds, *, repeats: bool, best: bool) -> Evaluated:
        names = ["logits", "best_logits", "best_tokens"]
        given = {name: feeds[name] for name in self._takes} | self.caches
        if repeats:
            self.shapes_that_repeat.add((*feeds["tokens"].shape, *feeds["block_table"].shape))
        with np.errstate(invalid="ignore"):  # a row that only fills a bucket may read what nobody wrote
            return Evaluated(dict(zip(names, self._evaluator.run(names, given), strict=True)))

    def copy(self, source: int, target: int, count: int) -> None:
        for cache in self.caches.values():
            cache[target : target + count] = cache[source : source + count]

    def close(self) -> None:
        self.caches.clear()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, golden_dir: Path) -> Callable[..., ReferenceGraph]:
    """The paged graph of a golden model, for contexts of 256 tokens; float32 is what only the evaluator has."""
    cache = GraphCache(tmp_path_factory.mktemp("graphs"))

    def build(model: str, compute: str) -> ReferenceGraph:
        source = open_model(golden_dir / model)
        graphs = PagedGraphs(cache, source, str(source.config["model_type"]), 256, unheard)
        return ReferenceGraph(graphs.find(Variant.PAGED, compute), compute)

    return build


@pytest.fixture
def evaluate() -> Callable[[Path], Callable[[str, dict[str, Array]], Array]]:
    """Opens a graph; runs it for one of its outputs, with those of the values that it takes."""

    def open_graph(path: Path) -> Callable[[str, dict[str, Array]], Array]:
        model = load_model(path)
        evaluator, takes = ReferenceEvaluator(model, new_ops=OPERATORS), [value.name for value in model.graph.input]

        def run(output: str, values: dict[str, Array]) -> Array:
            (found,) = evaluator.run([output], {name: values[name] for name in takes})
            return np.asarray(found)

        return run

    return open_graph
