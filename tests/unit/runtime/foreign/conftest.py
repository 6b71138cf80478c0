"""Small decoder graphs in the layouts of others, with dimensions of their own, and what they compute in NumPy."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from narthex_server.graph.builder import Compute, GraphBuilder
from narthex_server.runtime.foreign.choice import ForeignSession, open_foreign
from narthex_server.runtime.session import Shape
from narthex_server.weights.onnx_folder import read_onnx
from numpy.typing import NDArray

VOCAB, HEADS, SIZE, LENGTH = 37, 3, 8, 64
WIDTH = HEADS * SIZE
FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64
FAR = 1 << 40


@dataclass(frozen=True)
class Decoder:
    """Attention over the embeddings, and, if `conv` is not 0, a convolution over that many of the last ones.

    A cache that is not `in_place` grows by concatenation. Without the input `positions`, those that are added to the
    embeddings follow from the length of the past. `keep` is the input that limits the logits to the last tokens.
    """

    in_place: bool = False
    dtype: ir.DataType = FLOAT
    integers: ir.DataType = INT64
    positions: bool = True
    conv: int = 0
    keep: bool = False

    @cached_property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        rng = np.random.default_rng(8)
        shapes = {
            "tokens": (VOCAB, WIDTH), "places": (2 * LENGTH, WIDTH), "query": (WIDTH, WIDTH), "head": (WIDTH, VOCAB),
            "conv": (WIDTH, 1, self.conv),
        }  # fmt: skip
        return {name: (rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32) for name, shape in shapes.items()}

    def logits(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """Logits of every token of one sequence, computed at once."""
        weights = {name: value.astype(np.float64) for name, value in self.weights.items()}
        x = weights["tokens"][ids] + weights["places"][: len(ids)]
        rows, query = (value.reshape(len(ids), HEADS, SIZE).swapaxes(0, 1) for value in (x, x @ weights["query"]))
        scores = query @ rows.swapaxes(1, 2) / SIZE**0.5
        scores[:, np.triu(np.ones((len(ids), len(ids)), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        out = (shares / shares.sum(-1, keepdims=True) @ rows).swapaxes(0, 1).reshape(len(ids), WIDTH)
        if self.conv:
            padded = np.concatenate((np.zeros((self.conv - 1, WIDTH)), x))
            windows = np.lib.stride_tricks.sliding_window_view(padded, self.conv, axis=0)
            out = out + (windows * weights["conv"][:, 0]).sum(-1)
        return out @ weights["head"]

    def save(self, path: Path) -> None:
        Export(self).save(path)


class Export:
    """Writes a decoder as a graph."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._graph = GraphBuilder("decoder", Compute.FLOAT32)

    def save(self, path: Path) -> None:
        decoder, graph, dtype = self._decoder, self._graph, self._decoder.dtype
        tokens = graph.input("input_ids", decoder.integers, ("batch", "length"))
        mask = graph.input("attention_mask", decoder.integers, ("batch", "total"))
        cache = ("batch", HEADS, "past", SIZE)
        pasts = [graph.input(f"past_key_values.0.{what}", dtype, cache) for what in ("key", "value")]
        if decoder.positions:
            places = graph.input("position_ids", decoder.integers, ("batch", "length"))
        else:
            total = self._extent(mask, 1)
            places = self._range(graph.op("Sub", total, self._extent(tokens, 1)), total)
        x = graph.op("Gather", self._weight("tokens"), tokens)
        x = graph.op("Add", x, graph.op("Gather", self._weight("places"), places))
        query = graph.op("MatMul", x, self._weight("query"))
        attend = self._attend_in_place if decoder.in_place else self._attend
        out, *presents = attend(query, x, mask, *pasts)
        if decoder.conv:
            out = graph.op("Add", out, self._convolve(x))
        if decoder.keep:
            last = graph.op("Reshape", graph.input("num_logits_to_keep", INT64, ()), self._integers(1))
            out = graph.op("Slice", out, graph.op("Neg", last), self._integers(FAR), self._integers(1))
        graph.output(graph.op("MatMul", out, self._weight("head")), "logits", dtype, ("batch", "kept", VOCAB))
        for what, present in zip(("key", "value"), presents, strict=True):
            graph.output(present, f"present.0.{what}", dtype, ("batch", HEADS, "total", SIZE))
        graph.save(path, f"{path.name}_data")

    def _attend(self, query: ir.Value, x: ir.Value, mask: ir.Value, *pasts: ir.Value) -> Sequence[ir.Value]:
        graph, split = self._graph, self._integers(0, 0, HEADS, SIZE)
        query, rows = (graph.op("Transpose", graph.op("Reshape", v, split), perm=(0, 2, 1, 3)) for v in (query, x))
        keys, values = (graph.op("Concat", past, rows, axis=2) for past in pasts)
        scores = graph.op("MatMul", query, graph.op("Transpose", keys, perm=(0, 1, 3, 2)))
        scores = graph.op("Mul", scores, self._floats(SIZE**-0.5))
        total, length = self._extent(mask, 1), self._extent(x, 1)
        rows = graph.op("Add", self._range(self._integers(0), length), graph.op("Sub", total, length))
        columns = self._range(self._integers(0), total)
        seen = graph.op("LessOrEqual", columns, graph.op("Unsqueeze", rows, self._integers(1)))
        real = graph.op("Unsqueeze", graph.op("Cast", mask, to=int(ir.DataType.BOOL)), self._integers(1, 2))
        scores = graph.op("Where", graph.op("And", seen, real), scores, self._floats(-60000))
        out = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), values)
        out = graph.op("Reshape", graph.op("Transpose", out, perm=(0, 2, 1, 3)), self._integers(0, 0, WIDTH))
        return out, keys, values

    def _attend_in_place(self, query: ir.Value, x: ir.Value, mask: ir.Value, *pasts: ir.Value) -> Sequence[ir.Value]:
        graph, int32 = self._graph, int(ir.DataType.INT32)
        counts = graph.op("ReduceSum", graph.op("Cast", mask, to=int(INT64)), self._integers(1), keepdims=0)
        counts = graph.op("Cast", graph.op("Sub", counts, self._integers(1)), to=int32)
        total = graph.op("Cast", graph.op("Squeeze", self._extent(mask, 1)), to=int32)
        return graph.ops(
            "GroupQueryAttention", query, x, x, *pasts, counts, total, outputs=3, domain="com.microsoft",
            num_heads=HEADS, kv_num_heads=HEADS, scale=SIZE**-0.5,
        )  # fmt: skip

    def _convolve(self, x: ir.Value) -> ir.Value:
        graph, size = self._graph, self._decoder.conv
        shape = ("batch", WIDTH, size)
        state = graph.input("past_conv.0", self._decoder.dtype, shape)
        window = graph.op("Concat", state, graph.op("Transpose", x, perm=(0, 2, 1)), axis=2)
        ends = self._integers(FAR), self._integers(2)
        graph.output(graph.op("Slice", window, self._integers(-size), *ends), "present_conv.0", state.dtype, shape)
        window = graph.op("Slice", window, self._integers(1), *ends)
        out = graph.op("Conv", window, self._weight("conv"), group=WIDTH, kernel_shape=(size,))
        return graph.op("Transpose", out, perm=(0, 2, 1))

    def _weight(self, name: str) -> ir.Value:
        return self._graph.constant(name, self._decoder.weights[name].astype(self._decoder.dtype.numpy()))

    def _integers(self, *values: int) -> ir.Value:
        return self._graph.unnamed("integers", np.array(values))

    def _floats(self, value: float) -> ir.Value:
        return self._graph.unnamed("float", np.array(value, self._decoder.dtype.numpy()))

    def _extent(self, value: ir.Value, axis: int) -> ir.Value:
        return self._graph.op("Shape", value, start=axis, end=axis + 1)

    def _range(self, start: ir.Value, end: ir.Value) -> ir.Value:
        ends = (self._graph.op("Squeeze", value) for value in (start, end))
        return self._graph.op("Range", *ends, self._graph.unnamed("one", np.array(1)))


@pytest.fixture
def decoder() -> type[Decoder]:
    return Decoder


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., ForeignSession]]:
    """Open a decoder's graph as the server does."""
    sessions: list[ForeignSession] = []

    def one(decoder: Decoder, slots: int = 3, max_len: int = LENGTH) -> ForeignSession:
        path = tmp_path / "model.onnx"
        decoder.save(path)
        sessions.append(open_foreign(path, read_onnx(path).ports, Shape(slots, max_len, 1)))
        return sessions[-1]

    yield one
    for session in sessions:
        session.close()
