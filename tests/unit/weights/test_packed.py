import json

import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.packed import PackedWeights, quantization_config, write_weights
from narthex_server.weights.quantised import QuantisedWeights
from narthex_server.weights.safetensors import SafetensorsFolder
from narthex_server.weights.scheme import Scheme
from safetensors.numpy import load_file, save_file

CONFIG = {"quant_method": "narthex", "version": 1}


@pytest.fixture
def weights(tmp_path):
    rng = np.random.default_rng(4)
    tensors = {f"model.layers.{i}.w.weight": rng.normal(0, 0.1, (24 + i, 256)).astype(np.float16) for i in range(3)}
    tensors |= {"model.norm.weight": np.ones(256, np.float32), "odd.weight": np.ones((3, 5), np.float16)}
    (tmp_path / "source").mkdir()
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    return QuantisedWeights(SafetensorsFolder(tmp_path / "source"), Scheme("Q6_K"))


@pytest.mark.parametrize("limit", [1 << 30, 8000], ids=["one file", "shards"])
def test_weights_come_back_as_they_were_written(weights, tmp_path, limit):
    out = tmp_path / "out"
    out.mkdir()
    written = [tensor.name for tensor in write_weights(out, weights, limit)]
    assert sorted(written) == sorted(weights.names())
    assert (out / "model.safetensors.index.json").is_file() == (limit == 8000)
    files = list(out.glob("*.safetensors"))
    assert sum(len(load_file(file)) for file in files) == 5  # as the format's own library sees them
    again = PackedWeights(SafetensorsFolder(out), json.loads(json.dumps(quantization_config(weights))))
    assert sorted(again.names()) == sorted(weights.names())
    for name in weights.names():
        before, after = weights.find(name), again.find(name)
        assert (after.format, after.shape) == (before.format, before.shape)
        np.testing.assert_array_equal(after.raw, before.raw)
    assert again.find("none") is None


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"quant_method": "narthex"}, "version None; supported is 1"),
        (CONFIG | {"version": 2}, "version 2; supported is 1"),
        (CONFIG, "has no formats"),
        (CONFIG | {"formats": ["a"]}, "has no formats"),
        (CONFIG | {"formats": {"a": "Q9_K"}}, "a has format 'Q9_K', which is not known"),
        (CONFIG | {"formats": {"a": "F32"}}, "a has format 'F32', which is not known"),
        (CONFIG | {"formats": {"a": ["Q8_0"]}}, "which is not known"),
        (CONFIG | {"formats": {"b": "Q8_0"}}, "names the tensor b, which is missing"),
        (CONFIG | {"formats": {"a": "Q4_0"}}, r"tensor a is U8 \[2, 34\], no rows of Q4_0 blocks, which have 18 bytes"),
        (CONFIG | {"formats": {"f": "Q8_0"}}, r"tensor f is F32 \[2, 34\], no rows of Q8_0 blocks"),
        (CONFIG | {"formats": {"flat": "Q8_0"}}, r"tensor flat is U8 \[34\]"),
    ],
)
def test_a_config_that_does_not_fit_the_files_is_refused(tmp_path, config, complaint):
    tensors = {"a": np.zeros((2, 34), np.uint8), "f": np.zeros((2, 34), np.float32), "flat": np.zeros(34, np.uint8)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InvalidModelFile, match=complaint):
        PackedWeights(SafetensorsFolder(tmp_path), config)


def test_blocks_are_a_view_of_the_file(tmp_path):
    save_file({"a": np.zeros((2, 34), np.uint8)}, tmp_path / "model.safetensors")
    tensor = PackedWeights(SafetensorsFolder(tmp_path), CONFIG | {"formats": {"a": "Q8_0"}}).find("a")
    assert (tensor.shape, tensor.format) == ((2, 32), FORMATS["Q8_0"])
    assert not tensor.raw.flags.owndata
