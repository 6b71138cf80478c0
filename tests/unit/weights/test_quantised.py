import logging

import gguf
import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.weights import quantised
from narthex_server.weights.formats import BF16, F16, F32, FORMATS
from narthex_server.weights.quantised import QuantisedWeights
from narthex_server.weights.scheme import Scheme
from narthex_server.weights.tensors import StoredTensor
from narthex_server.weights.topology import Topology

WEIGHT, NORM = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"


class Source:
    """Tensors by name; counts how often bytes were asked for."""

    def __init__(self, *tensors):
        self.asked = []
        self._tensors = {tensor.name: tensor for tensor in tensors}

    def names(self):
        return self._tensors

    def find(self, name):
        return self._tensors.get(name)

    def add(self, name, values, stored=F32):
        def make():
            self.asked.append(name)
            raw = (
                values.astype({"F32": np.float32, "F16": np.float16}[stored.name])
                if stored is not BF16
                else bf16(values)
            )
            return raw.view(np.uint8).reshape(values.shape[0] if values.ndim > 1 else 1, -1)

        self._tensors[name] = StoredTensor(name, values.shape, stored, make)


def bf16(values):
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.fixture
def source():
    rng = np.random.default_rng(2)
    source = Source()
    source.add(WEIGHT, rng.normal(0, 0.02, (96, 512)).astype(np.float32))
    source.add(NORM, np.ones(512, np.float32))
    return source


def test_weights_are_encoded_when_they_are_asked_for(source):
    weights = QuantisedWeights(source, Scheme("Q8_0"))
    tensor = weights.find(WEIGHT)
    assert (tensor.format.name, tensor.shape, tensor.nbytes) == ("Q8_0", (96, 512), 96 * 16 * 34)
    assert source.asked == []
    values = source.find(WEIGHT).dense()
    wanted = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(tensor.raw, wanted)
    assert weights.find(NORM) is source.find(NORM)
    assert weights.find("none") is None
    assert list(weights.names()) == [WEIGHT, NORM]


def test_the_last_weight_is_encoded_once(source):
    source.add("lm_head.weight", np.ones((4, 256), np.float32))
    weights = QuantisedWeights(source, Scheme("Q4_K"))
    for _ in range(3):
        _ = weights.find(WEIGHT).raw
    for _ in range(2):
        _ = weights.find("lm_head.weight").raw
    assert source.asked == [WEIGHT, "lm_head.weight"]


@pytest.mark.parametrize("stored", [F16, BF16], ids=lambda stored: stored.name)
def test_every_float_type_is_taken_and_slices_make_no_difference(source, monkeypatch, stored):
    values = np.random.default_rng(3).normal(0, 1, (37, 256)).astype(np.float32)
    source.add(WEIGHT, values, stored)
    whole = QuantisedWeights(source, Scheme("Q4_K")).find(WEIGHT)
    exact = source.find(WEIGHT).dense()
    assert np.abs(whole.dense() - exact).max() < 0.5
    wanted = whole.raw
    monkeypatch.setattr(quantised, "_SLICE", 1000)
    np.testing.assert_array_equal(QuantisedWeights(source, Scheme("Q4_K")).find(WEIGHT).raw, wanted)


def test_quantised_weights_are_not_quantised_again():
    tensor = StoredTensor(WEIGHT, (2, 32), FORMATS["Q8_0"], np.zeros((2, 34), np.uint8))
    with pytest.raises(InvalidRequest, match=f"{WEIGHT} is quantised already, as Q8_0") as caught:
        QuantisedWeights(Source(tensor), Scheme("Q4_0"))
    assert caught.value.reason == "QUANTISED_ALREADY"


def test_a_value_that_cannot_be_encoded_names_its_tensor(source):
    values = np.ones((3, 256), np.float32)
    values[1, 7] = np.nan
    source.add(WEIGHT, values)
    tensor = QuantisedWeights(source, Scheme("Q4_K")).find(WEIGHT)
    with pytest.raises(InvalidModelFile, match=f"tensor {WEIGHT} holds a value that is not a number"):
        _ = tensor.raw


def test_what_was_decided_is_logged(source, caplog, tmp_path):
    (tmp_path / "t.yml").write_text("7-9: {isq: q8_0}\n")
    with caplog.at_level(logging.INFO):
        QuantisedWeights(source, Scheme("Q4_K", Topology.read(tmp_path / "t.yml")))
    assert f"quantising: Q4_K: 1; as stored: 1 (not a matrix: {NORM})" in caplog.text
    assert "topology entry 7-9 fits no tensor of this model" in caplog.text
