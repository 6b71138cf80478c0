import gguf
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from narthex_server.graph.builder import Compute, GraphBuilder
from narthex_server.graph.linear import linear
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.tensors import StoredTensor

ROWS, COLUMNS = 48, 512


@pytest.mark.parametrize("shape", [(2, 3, COLUMNS), (5, COLUMNS), (0, COLUMNS)], ids=["3-d", "2-d", "no rows"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", [known.name for known in FORMATS.values() if known.packing])
def test_a_product_of_stored_blocks_is_that_of_their_values(stored, tmp_path, name, biased, shape):
    rng = np.random.default_rng(3)
    weight = stored(name, ROWS, COLUMNS)
    values = rng.normal(size=ROWS).astype(np.float32)
    bias = StoredTensor("b", (ROWS,), FORMATS["F32"], values.view(np.uint8).reshape(1, -1)) if biased else None
    graph = GraphBuilder("product", Compute.BLOCK8)
    x = graph.input("x", ir.DataType.FLOAT, ("rows", *shape[1:]))
    graph.output(linear(graph, x, weight, bias), "y", ir.DataType.FLOAT, ("rows", *shape[1:-1], ROWS))
    graph.save(tmp_path / "model.onnx", "weights.bin")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    operand = rng.normal(size=shape).astype(np.float32)
    wanted = operand @ gguf.dequantize(weight.raw, gguf.GGMLQuantizationType(weight.format.ggml_type)).T
    wanted += values if biased else 0
    (got,) = session.run(None, {"x": operand})
    assert got.shape == wanted.shape
    assert np.linalg.norm(got - wanted) <= 0.012 * np.linalg.norm(wanted)  # int8 activations
