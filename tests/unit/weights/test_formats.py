import gguf
import numpy as np
import pytest
from narthex_server.weights.formats import FORMATS, BlockFormat
from narthex_server.weights.tensors import StoredTensor

QUANTISED = [known for known in FORMATS.values() if known.packing]


def random_rows(known: BlockFormat, rows: int = 6, columns: int = 1024) -> np.ndarray:
    """Random blocks whose float16 fields are ordinary numbers."""
    rng = np.random.default_rng(7)
    raw = rng.integers(0, 256, (rows, columns // known.block, known.bytes), dtype=np.uint8)
    halves = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(known.name, (0,))
    for at in halves:
        scales = rng.normal(0, 0.02, raw.shape[:2]).astype(np.float16)
        raw[..., at : at + 2] = scales[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("known", QUANTISED, ids=lambda known: known.name)
def test_blocks_mean_what_the_reference_package_says(known):
    raw = random_rows(known)
    wanted = gguf.dequantize(raw, gguf.GGMLQuantizationType(known.ggml_type))
    np.testing.assert_allclose(known.dense(raw), wanted, rtol=1e-6, atol=1e-6)


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


def test_reordered_rows_keep_their_blocks():
    known = FORMATS["Q4_0"]
    raw = random_rows(known)
    tensor = StoredTensor("w", (6, 1024), known, raw)
    order = np.array([5, 0, 3, 1, 2, 4])
    np.testing.assert_array_equal(tensor.reordered(order).dense(), tensor.dense()[order])
