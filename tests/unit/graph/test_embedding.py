import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from narthex_server.graph.builder import Compute, GraphBuilder
from narthex_server.graph.embedding import embed
from narthex_server.weights.formats import FORMATS


@pytest.mark.parametrize("compute", [known for known in Compute if known.dtype == ir.DataType.FLOAT])
@pytest.mark.parametrize("name", [known.name for known in FORMATS.values() if known.packing])
def test_a_looked_up_row_is_that_of_the_table(stored, tmp_path, name, compute):
    table = stored(name, 40, 512)
    graph = GraphBuilder("lookup", compute)
    tokens = graph.input("tokens", ir.DataType.INT64, ("batch", "length"))
    graph.output(embed(graph, tokens, table), "y", ir.DataType.FLOAT, ("batch", "length", 512))
    graph.save(tmp_path / "model.onnx", "weights.bin")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([[3, 39, 0], [7, 7, 21]])
    (got,) = session.run(None, {"tokens": ids})
    np.testing.assert_allclose(got, table.dense()[ids], rtol=1e-6, atol=1e-6)
