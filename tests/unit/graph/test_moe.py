"""Mixtures of experts against NumPy."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from narthex_server.graph.builder import Compute, GraphBuilder
from narthex_server.graph.moe import Expert, mixture, routing, softmax_routing
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.tensors import StoredTensor

CHOSEN, HIDDEN, WIDTH = 2, 256, 512
INT8_ACTIVATIONS = 0.02
FEW, MANY = 5, 9


def run(tmp_path, graph, y, shape, feeds):
    graph.output(y, "y", ir.DataType.FLOAT, shape)
    graph.save(tmp_path / "model.onnx", "weights.bin")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def silu(x):
    return x * (1 + np.tanh(x / 2)) / 2


def gelu_pytorch_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


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
@pytest.mark.parametrize("compute", list(Compute))
@pytest.mark.parametrize(
    ("gates", "downs", "activation"),
    [
        ("F32", "F32", silu), ("Q8_0", "Q8_0", silu), ("Q4_0", "Q4_0", silu), ("Q5_0", "Q5_0", silu),
        ("Q6_K", "Q6_K", silu), ("Q4_K", "Q4_K", silu), ("Q4_K", "Q6_K", silu), ("Q8_0", "Q8_0", gelu_pytorch_tanh),
    ],
)  # fmt: skip
def test_a_token_gets_the_sum_of_the_experts_that_it_chose(stored, tmp_path, gates, downs, activation, compute, count):
    rng = np.random.default_rng(4)

    def matrix(kind, format_, rows, columns):
        values = (rng.normal(size=(rows, columns)) / 16).astype(np.float32)
        plain = StoredTensor("", (rows, columns), FORMATS["F32"], values.view(np.uint8))
        chosen = plain if format_ == "F32" else stored(format_, rows, columns).reordered(rng.permutation(rows))
        return replace(chosen, name=f"{kind}.{rng.integers(1 << 60)}")

    inward, outward = (WIDTH, HIDDEN), (HIDDEN, WIDTH)
    experts = [
        Expert(matrix("gate", gates, *inward), matrix("up", gates, *inward), matrix("down", downs, *outward))
        for _ in range(count)
    ]
    x = rng.normal(size=(2, 3, HIDDEN)).astype(np.float32) / 16
    weights = rng.uniform(0.1, 0.5, (6, count)).astype(np.float32)
    weights *= weights >= np.sort(weights)[:, [-CHOSEN]]
    weights[:, 1] = 0  # nobody's choice

    graph = GraphBuilder("mixture", compute)
    tokens = graph.input("x", ir.DataType.FLOAT, ("batch", "length", HIDDEN))
    chances = graph.input("weights", ir.DataType.FLOAT, ("tokens", count))
    y = mixture(graph, tokens, chances, experts, CHOSEN, activation.__name__)
    got = run(tmp_path, graph, y, ("batch", "length", HIDDEN), {"x": x, "weights": weights})

    wanted = np.zeros((6, HIDDEN))
    for index, expert in enumerate(experts):
        inner = activation(x.reshape(6, -1) @ expert.gate.dense().T) * (x.reshape(6, -1) @ expert.up.dense().T)
        wanted += weights[:, [index]] * (inner @ expert.down.dense().T)
    error = np.linalg.norm(got.reshape(6, -1) - wanted) / np.linalg.norm(wanted)
    assert error < (INT8_ACTIVATIONS if compute is Compute.BLOCK8 and gates != "F32" else 1e-5)
