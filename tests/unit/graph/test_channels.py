import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from narthex_server.graph.builder import Compute, GraphBuilder
from narthex_server.graph.linear import linear
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.tensors import StoredTensor

ROWS, COLUMNS = 48, 320


def tensor(name, values):
    raw = np.ascontiguousarray(values, np.float32)
    return StoredTensor(name, values.shape, FORMATS["F32"], raw.view(np.uint8).reshape(-1, raw.shape[-1] * 4))


@pytest.fixture
def product(tmp_path):
    """The product of x with a weight [ROWS, COLUMNS] and a bias, in integers."""

    def run(x, weight, bias=None):
        graph = GraphBuilder("product", Compute.INT8)
        value = graph.input("x", ir.DataType.FLOAT, ("rows", *x.shape[1:]))
        stored = None if bias is None else tensor("b", bias)
        result = linear(graph, value, tensor("w", weight), stored)
        graph.output(result, "y", ir.DataType.FLOAT, ("rows", *x.shape[1:-1], ROWS))
        graph.save(tmp_path / "model.onnx", "weights.bin")
        return ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]

    return run


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(2, 3, COLUMNS), (5, COLUMNS), (0, COLUMNS)], ids=["3-d", "2-d", "no rows"])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_in_integers_is_off_by_rounding_alone(product, rng, shape, biased):
    x, weight = rng.normal(size=shape).astype(np.float32), rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    bias = rng.normal(size=ROWS).astype(np.float32) if biased else None
    wanted = x @ weight.T + (bias if biased else 0)
    got = product(x, weight, bias)
    assert got.shape == wanted.shape
    assert np.linalg.norm(got - wanted) <= 0.015 * np.linalg.norm(wanted)


def test_integers_are_exact_where_nothing_needs_rounding(product, rng):
    x, weight = (rng.integers(-127, 128, size=(rows, COLUMNS)).astype(np.float32) for rows in (3, ROWS))
    x[:, 0], weight[:, 0] = 127, -127
    np.testing.assert_allclose(product(x, weight), x @ weight.T, rtol=1e-5, atol=1)


def test_an_outlier_in_one_token_leaves_the_others_alone(product, rng):
    x, weight = rng.normal(size=(4, COLUMNS)).astype(np.float32), rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    calm = product(x, weight)
    x[2, 7] = 1e4
    np.testing.assert_array_equal(product(x, weight)[[0, 1, 3]], calm[[0, 1, 3]])


def test_tokens_and_channels_of_zeros_give_zeros(product, rng):
    x, weight = rng.normal(size=(3, COLUMNS)).astype(np.float32), rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    x[1], weight[5] = 0, 0
    got = product(x, weight)
    assert np.isfinite(got).all()
    assert not got[1].any() and not got[:, 5].any()
