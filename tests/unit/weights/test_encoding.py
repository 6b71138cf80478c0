import gguf
import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.encoding import ENCODERS, encode
from narthex_server.weights.formats import BlockFormat

KINDS = list(ENCODERS)
LEGACY = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
GGML_ERRORS = {
    "normal": {"Q2_K": 0.29577, "Q3_K": 0.15075, "Q4_K": 0.07131, "Q5_K": 0.03602, "Q6_K": 0.01774},
    "heavy": {"Q2_K": 0.34247, "Q3_K": 0.18404, "Q4_K": 0.08704, "Q5_K": 0.04412, "Q6_K": 0.02295},
}
"""Relative errors of ggml's own C encoders (`quantize_row_*_ref`, August 2026) on the values that `drawn` gives."""


def stored(name):
    """The format as the reference package knows it."""
    kind = gguf.GGMLQuantizationType[name]
    return BlockFormat(name, int(kind), *gguf.GGML_QUANT_SIZES[kind], dense=lambda raw: gguf.dequantize(raw, kind))


def drawn(distribution, shape=(64, 2048)):
    rng = np.random.default_rng(11)
    normal = rng.normal(0, 0.02, shape).astype(np.float32)
    return normal if distribution == "normal" else (rng.standard_t(4, shape) * 0.02).astype(np.float32)


def coded(name, values):
    known = stored(name)
    raw = encode("w", values, known)
    assert raw.shape == (len(values), values.shape[1] // known.block * known.bytes)
    return known.dense(raw)


def relative_error(name, values):
    return np.sqrt(np.mean((coded(name, values) - values) ** 2) / np.mean(values**2))


def special_rows():
    """Rows of zeros, constants, ties between the extremes, halves of steps, one outlier, and very small values."""
    rng = np.random.default_rng(5)
    rows = np.zeros((10, 512), np.float32)
    rows[1], rows[2] = 0.37, -0.37
    rows[3] = np.tile(np.array([1, -1], np.float32), 256)
    rows[4] = np.tile(np.array([-1, 1], np.float32), 256)
    rows[5] = (np.arange(512) % 255 - 127) / 2
    rows[6] = rng.normal(0, 0.01, 512)
    rows[6, 100] = 9
    rows[7] = rng.normal(0, 1e-9, 512)
    rows[8] = rng.normal(0, 1e-41, 512)
    rows[9] = rng.uniform(-60000, 60000, 512)
    return rows


@pytest.mark.parametrize("name", LEGACY)
def test_formats_of_one_scale_are_those_of_the_reference_package(name):
    ordinary = special_rows()
    ordinary[8] = 0  # the reference package divides by what has no inverse
    for values in (drawn("normal"), drawn("heavy"), ordinary):
        wanted = gguf.quantize(values, gguf.GGMLQuantizationType[name])
        np.testing.assert_array_equal(encode("w", values, stored(name)), wanted)


@pytest.mark.parametrize("distribution", GGML_ERRORS)
@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_searched_scales_lose_no_more_than_ggmls(name, distribution):
    assert relative_error(name, drawn(distribution)) < 1.005 * GGML_ERRORS[distribution][name]


def test_more_bits_lose_less():
    errors = [relative_error(name, drawn("normal")) for name in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")]
    assert errors == sorted(errors)
    assert errors[3] < 0.85 * relative_error("Q4_0", drawn("normal"))
    assert errors[2] < 0.85 * relative_error("Q5_0", drawn("normal"))


@pytest.mark.parametrize("name", KINDS)
def test_zeros_stay_zeros(name):
    assert not coded(name, np.zeros((3, 512), np.float32)).any()


@pytest.mark.parametrize("name", KINDS)
def test_constants_and_outliers_cost_no_more_than_a_step_of_their_block(name):
    rows = special_rows()
    got = coded(name, rows)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[1:3], rows[1:3], rtol=0.04)
    steps = {"Q8_0": 254, "Q6_K": 62, "Q5_K": 31, "Q5_0": 30, "Q5_1": 31, "Q3_K": 6, "Q2_K": 3}.get(name, 14)
    spread = np.ptp(rows, axis=1, keepdims=True)[3:]
    assert (np.abs(got - rows)[3:] <= 1.2 * spread / steps + 1e-7).all()


@pytest.mark.parametrize("name", KINDS)
def test_a_block_does_not_depend_on_its_neighbours(name):
    values = drawn("heavy", (70, 1024))  # more than is encoded at a time
    rows = [encode("w", values[[row]], stored(name)) for row in range(len(values))]
    np.testing.assert_array_equal(encode("w", values, stored(name)), np.concatenate(rows))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70000.0])
@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q6_K"])
def test_what_no_block_can_hold_is_refused_with_the_tensors_name(name, value):
    values = drawn("normal", (4, 512))
    values[2, 300] = value
    with pytest.raises(InvalidModelFile, match=r"model\.layers\.3\.w holds a value that is not a number or beyond"):
        encode("model.layers.3.w", values, stored(name))


def test_no_rows_give_no_rows():
    assert encode("w", np.zeros((0, 256), np.float32), stored("Q4_K")).shape[0] == 0
