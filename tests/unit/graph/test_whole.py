"""Attention within whole texts against NumPy, for heads, windows and rotations of many kinds."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.graph import rope as rotary
from narthex_server.graph.attention import Heads
from narthex_server.graph.builder import Compute, GraphBuilder
from narthex_server.graph.rope import Beyond, Rope
from narthex_server.graph.whole import CausalAttention, FullAttention
from narthex_server.weights.formats import F32
from narthex_server.weights.tensors import StoredTensor

LENGTHS = np.array([29, 1, 16, 7], np.int32)
MOST = 32
SINK = StoredTensor("sink", (2,), F32, np.array([[0.4, -1.3]], np.float32).view(np.uint8))


def run(tmp_path, kind, heads: Heads, rope: Rope | None, query, key, value, **options) -> np.ndarray:
    graph = GraphBuilder("attention", Compute.FLOAT32)
    inputs = [graph.input(name, ir.DataType.FLOAT, ("batch", "length", f"width of {name}")) for name in "qkv"]
    mixed = kind(graph, MOST).mix(0, *inputs, heads, rope, **options)
    graph.output(mixed, "y", ir.DataType.FLOAT, ("batch", "length", heads.count * heads.size))
    graph.save(tmp_path / "model.onnx", "weights.bin")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"q": query, "k": key, "v": value, "lengths": LENGTHS})[0]


def rotated(x: np.ndarray, rope: Rope | None) -> np.ndarray:
    """x [heads, S, size]."""
    if rope is None:
        return x
    angles = np.outer(np.arange(x.shape[1]), rope.frequencies)
    half, size = len(rope.frequencies), rope.size
    first, second, rest = x[..., :half], x[..., half:size], x[..., size:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin, rest), axis=-1)


def wanted(heads: Heads, rope: Rope | None, seen: np.ndarray, query, key, value) -> np.ndarray:
    """One text: query, key and value [S, …]; seen [S, S]."""

    def split(x: np.ndarray, count: int) -> np.ndarray:
        return x.reshape(len(x), count, heads.size).transpose(1, 0, 2).astype(np.float64)

    share = heads.count // heads.kv_count
    q = rotated(split(query, heads.count), rope)
    k = rotated(split(key, heads.kv_count), rope).repeat(share, axis=0)
    scores = q @ k.transpose(0, 2, 1) * (heads.scale or heads.size**-0.5)
    if heads.softcap:
        scores = heads.softcap * np.tanh(scores / heads.softcap)
    scores = np.where(seen, scores, -np.inf)
    if heads.sink:
        sinks = np.broadcast_to(heads.sink.dense()[:, None, None], (heads.count, len(query), 1))
        scores = np.concatenate((scores, sinks), axis=-1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = weights[..., : len(query)] @ split(value, heads.kv_count).repeat(share, axis=0)
    return mixed.transpose(1, 0, 2).reshape(len(query), -1)


HEADS = {
    "one for each": Heads(3, 3, 20),
    "shared": Heads(6, 2, 16),
    "one for all": Heads(5, 1, 10),
    "odd window": Heads(4, 2, 12, window=5),
    "even window": Heads(4, 4, 8, window=8),
    "window of one": Heads(2, 1, 16, window=1),
    "scaled": Heads(2, 2, 24, scale=0.4),
}
ROPES = {
    "none": None,
    "whole": lambda size: rotary.linear(1e4, size, 1.0),
    "partial": lambda size: rotary.linear(500.0, size // 4 * 2, 2.0),
}


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", [CausalAttention, FullAttention])
def test_a_text_sees_itself_and_no_padding(tmp_path, kind, name, rope):
    heads = HEADS[name]
    turn = ROPES[rope](heads.size) if ROPES[rope] else None
    rng = np.random.default_rng(5)
    batch, length = len(LENGTHS), int(LENGTHS.max())
    query = rng.normal(size=(batch, length, heads.count * heads.size)).astype(np.float32)
    key, value = (rng.normal(size=(batch, length, heads.kv_count * heads.size)).astype(np.float32) for _ in range(2))
    got = run(tmp_path, kind, heads, turn, query, key, value)
    for row, count in enumerate(LENGTHS):
        behind = np.arange(count)[:, None] - np.arange(count)
        if kind is CausalAttention:
            seen = (behind >= 0) & (behind < (heads.window or MOST))
        else:
            seen = np.abs(behind) <= (heads.window // 2 if heads.window else MOST)
        alone = wanted(heads, turn, seen, query[row, :count], key[row, :count], value[row, :count])
        np.testing.assert_allclose(got[row, :count], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"), [({"softcap": 0.7}, "soft-capped"), ({"sink": SINK}, "attention sinks")], ids=["cap", "sink"]
)
def test_caps_and_sinks_are_for_where_there_is_an_order(tmp_path, options, says):
    heads, rng = Heads(2, 2, 8, **options), np.random.default_rng(5)
    query, key, value = (rng.normal(size=(4, 29, 16)).astype(np.float32) for _ in range(3))
    got = run(tmp_path, CausalAttention, heads, None, query, key, value)
    alone = wanted(heads, None, np.tril(np.ones((29, 29), bool)), query[0], key[0], value[0])
    np.testing.assert_allclose(got[0], alone, rtol=0, atol=1e-5)
    with pytest.raises(InvalidModelFile, match=says):
        run(tmp_path, FullAttention, heads, None, query, key, value)


def test_a_bias_is_added_to_the_scores_of_each_head(tmp_path):
    heads, rng = Heads(2, 2, 8), np.random.default_rng(5)
    query, key, value = (rng.normal(size=(4, 29, 16)).astype(np.float32) for _ in range(3))
    bias = np.zeros((1, 2, 29, 29), np.float32)
    bias[0, 1, :, 3:] = -1e9  # the second head sees three tokens
    graph = GraphBuilder("attention", Compute.FLOAT32)
    inputs = [graph.input(name, ir.DataType.FLOAT, ("batch", "length", f"width of {name}")) for name in "qkv"]
    mixed = FullAttention(graph, MOST).mix(0, *inputs, heads, None, bias=graph.constant("bias", bias))
    graph.output(mixed, "y", ir.DataType.FLOAT, ("batch", "length", 16))
    graph.save(tmp_path / "model.onnx", "weights.bin")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"q": query, "k": key, "v": value, "lengths": LENGTHS})
    seen = np.ones((2, 29, 29), bool)
    seen[1, :, 3:] = False
    np.testing.assert_allclose(got[0], wanted(heads, None, seen, query[0], key[0], value[0]), rtol=0, atol=1e-5)


def test_rotations_that_depend_on_the_length_are_refused_beyond_it(tmp_path):
    turn = Rope((1.0, 0.1), beyond=Beyond(8, (0.5, 0.05)))
    query = np.zeros((4, 29, 8), np.float32)
    with pytest.raises(InvalidModelFile, match="lower the context to 8"):
        run(tmp_path, CausalAttention, Heads(2, 2, 4), turn, query, query, query)
