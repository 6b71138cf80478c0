"""Mixtures of experts against NumPy."""

from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from narthex_server.graph.builder import Compute, GraphBuilder
from narthex_server.graph.mlp import Swiglu, gated
from narthex_server.graph.moe import Expert, mixture, routing, softmax_routing
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.tensors import StoredTensor

CHOSEN, HIDDEN, WIDTH = 2, 256, 512
INT8_ACTIVATIONS = 0.02
WHOLE_CHANNELS = 0.04
FEW, MANY = 5, 9
CLAMPED = Swiglu(alpha=1.7, beta=1.0, limit=0.05)


def run(tmp_path, graph, y, shape, feeds):
    graph.output(y, "y", ir.DataType.FLOAT, shape)
    graph.save(tmp_path / "model.onnx", "weights.bin")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def swiglu(gate, up):
    return gate * (1 + np.tanh(gate / 2)) / 2 * up


def clamped(gate, up):
    gate, up = np.minimum(gate, CLAMPED.limit), np.clip(up, -CLAMPED.limit, CLAMPED.limit)
    return gate * (1 + np.tanh(CLAMPED.alpha * gate / 2)) / 2 * (up + CLAMPED.beta)


def geglu(gate, up):
    return 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up


GATINGS = {swiglu: Swiglu(), clamped: CLAMPED, geglu: partial(gated, activation="gelu_pytorch_tanh")}


@pytest.mark.parametrize("normalised", [False, True])
def test_softmax_routing_keeps_the_most_likely(tmp_path, normalised):
    graph = GraphBuilder("routing", Compute.FLOAT32)
    logits = graph.input("logits", ir.DataType.FLOAT, ("tokens", FEW))
    operand = np.random.default_rng(1).normal(size=(7, FEW)).astype(np.float32)
    got = run(tmp_path, graph, softmax_routing(graph, logits, CHOSEN, normalised), ("t", FEW), {"logits": operand})
    wanted = np.exp(operand) / np.exp(operand).sum(-1, keepdims=True)
    wanted *= wanted >= np.sort(wanted)[:, [-CHOSEN]]
    wanted /= wanted.sum(-1, keepdims=True) if normalised else 1
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_an_expert_may_be_chosen_by_another_score_than_its_weight(tmp_path):
    graph = GraphBuilder("routing", Compute.FLOAT32)
    names = ("scores", "weights")
    scores, weights = (graph.input(name, ir.DataType.FLOAT, ("tokens", 3)) for name in names)
    feeds = {"scores": np.array([[0, 2, 1]], np.float32), "weights": np.array([[0.9, 0.1, 0.3]], np.float32)}
    got = run(tmp_path, graph, routing(graph, scores, weights, 2, True, 0.1), ("t", 3), feeds)
    np.testing.assert_allclose(got, [[0, 0.2, 0.6]], atol=1e-6)


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("compute", [known for known in Compute if known.dtype == ir.DataType.FLOAT])
@pytest.mark.parametrize(
    ("gates", "downs", "gating"),
    [
        ("F32", "F32", swiglu), ("Q8_0", "Q8_0", swiglu), ("Q4_0", "Q4_0", swiglu), ("Q5_0", "Q5_0", swiglu),
        ("Q6_K", "Q6_K", swiglu), ("Q4_K", "Q4_K", swiglu), ("Q4_K", "Q6_K", swiglu), ("Q8_0", "Q8_0", geglu),
        ("F32", "F32", clamped), ("MXFP4", "MXFP4", clamped),
    ],
)  # fmt: skip
def test_a_token_gets_the_sum_of_the_experts_that_it_chose(stored, tmp_path, gates, downs, gating, compute, count):
    rng = np.random.default_rng(4)

    def matrix(kind, format_, rows, columns):
        values = (rng.normal(size=(rows, columns)) / 16).astype(np.float32)
        plain = StoredTensor("", (rows, columns), FORMATS["F32"], values.view(np.uint8))
        chosen = plain if format_ == "F32" else stored(format_, rows, columns).reordered(rng.permutation(rows))
        return replace(chosen, name=f"{kind}.{rng.integers(1 << 60)}")

    def biases():
        for size in (WIDTH, WIDTH, HIDDEN):
            values = rng.normal(size=(1, size)).astype(np.float32) / 16
            yield StoredTensor(f"bias.{rng.integers(1 << 60)}", (size,), FORMATS["F32"], values.view(np.uint8))

    inward, outward = (WIDTH, HIDDEN), (HIDDEN, WIDTH)
    experts = [
        Expert(
            matrix("gate", gates, *inward), matrix("up", gates, *inward), matrix("down", downs, *outward),
            tuple(biases()) if gating is clamped else None,
        )
        for _ in range(count)
    ]  # fmt: skip
    x = rng.normal(size=(2, 3, HIDDEN)).astype(np.float32) / 16
    weights = rng.uniform(0.1, 0.5, (6, count)).astype(np.float32)
    weights *= weights >= np.sort(weights)[:, [-CHOSEN]]
    weights[:, 1] = 0  # nobody's choice

    graph = GraphBuilder("mixture", compute)
    tokens = graph.input("x", ir.DataType.FLOAT, ("batch", "length", HIDDEN))
    chances = graph.input("weights", ir.DataType.FLOAT, ("tokens", count))
    y = mixture(graph, tokens, chances, experts, CHOSEN, GATINGS[gating])
    got = run(tmp_path, graph, y, ("batch", "length", HIDDEN), {"x": x, "weights": weights})

    wanted = np.zeros((6, HIDDEN))
    for index, expert in enumerate(experts):
        gate_bias, up_bias, down_bias = (bias.dense() for bias in expert.biases) if expert.biases else (0, 0, 0)
        gate, up = (x.reshape(6, -1) @ matrix.dense().T for matrix in (expert.gate, expert.up))
        inner = gating(gate + gate_bias, up + up_bias)
        wanted += weights[:, [index]] * (inner @ expert.down.dense().T + down_bias)
    error = np.linalg.norm(got.reshape(6, -1) - wanted) / np.linalg.norm(wanted)
    limits = {Compute.INT8: WHOLE_CHANNELS, Compute.BLOCK8: 1e-5 if gates == "F32" else INT8_ACTIVATIONS}
    assert error < limits.get(compute, 1e-5)
