import gguf
import numpy as np
import pytest
from narthex_server.weights.formats import FORMATS

QUANTISED = [known for known in FORMATS.values() if known.packing]


@pytest.mark.parametrize("known", QUANTISED, ids=lambda known: known.name)
def test_blocks_mean_exactly_what_the_reference_package_says(stored, known):
    raw = stored(known.name, 6, 1024).raw
    wanted = gguf.dequantize(raw, gguf.GGMLQuantizationType(known.ggml_type))
    difference = 0 if known.packing.offsets is None else np.abs(wanted).max() * 2**-22  # an offset is one more rounding
    np.testing.assert_allclose(known.dense(raw), wanted, rtol=0, atol=difference)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_values_that_the_reference_package_quantised_come_back(name):
    known = FORMATS[name]
    kind = gguf.GGMLQuantizationType(known.ggml_type)
    raw = gguf.quantize(np.random.default_rng(5).normal(size=(4, 512)).astype(np.float32), kind)
    np.testing.assert_allclose(known.dense(raw), gguf.dequantize(raw, kind), rtol=0, atol=1e-6)


def test_every_power_of_two_of_mxfp4_is_right():
    raw = np.zeros((250, 17), np.uint8)
    raw[:, 0], raw[:, 1:] = np.arange(250), 0x71
    wanted = gguf.dequantize(raw, gguf.GGMLQuantizationType.MXFP4)
    np.testing.assert_array_equal(FORMATS["MXFP4"].dense(raw), wanted)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_mean_what_the_reference_package_says(name):
    known = FORMATS[name]
    values = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    raw = gguf.quantize(values, gguf.GGMLQuantizationType(known.ggml_type)).view(np.uint8).reshape(3, -1)
    wanted = gguf.dequantize(raw, gguf.GGMLQuantizationType(known.ggml_type))
    np.testing.assert_array_equal(known.dense(raw), wanted)


@pytest.mark.parametrize("known", QUANTISED, ids=lambda known: known.name)
def test_sizes_and_numbers_are_those_of_the_reference_package(known):
    kind = gguf.GGMLQuantizationType(known.ggml_type)
    assert kind.name == known.name
    assert gguf.GGML_QUANT_SIZES[kind] == (known.block, known.bytes)


def test_reordered_rows_keep_their_blocks(stored):
    tensor = stored("Q4_0", 6, 1024)
    order = np.array([5, 0, 3, 1, 2, 4])
    np.testing.assert_array_equal(tensor.reordered(order).dense(), tensor.dense()[order])
