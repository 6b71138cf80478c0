"""GPTQ, AWQ and float8 folders, packed here by the definitions of their formats, one value at a time."""

import logging

import ml_dtypes
import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.awq import AwqWeights
from narthex_server.weights.fp8 import Float8Weights
from narthex_server.weights.gptq import GptqWeights
from narthex_server.weights.safetensors import SafetensorsFolder
from safetensors.numpy import save_file

NAME = "model.layers.0.mlp.up_proj"
ROWS, COLUMNS = 24, 256


def words(values, bits, places):
    """Pack values [n, m] along the last axis: value i of a word at its place of `bits` bits."""
    packed = np.zeros((len(values), values.shape[1] // len(places)), np.uint32)
    for row, line in enumerate(values):
        for at, value in enumerate(line):
            packed[row, at // len(places)] |= np.uint32(int(value) << (bits * places[at % len(places)]))
    return packed.view(np.int32)


def drawn(bits, group, symmetric=False):
    rng = np.random.default_rng(bits * group)
    groups = COLUMNS // group
    values = rng.integers(0, 1 << bits, (COLUMNS, ROWS), np.uint8)
    middle = 1 << (bits - 1)
    zeros = np.full((groups, ROWS), middle) if symmetric else rng.integers(0, 1 << bits, (groups, ROWS))
    scales = rng.uniform(0.001, 0.02, (groups, ROWS)).astype(np.float16)
    return values, zeros.astype(np.uint8), scales


def multiplied_out(values, zeros, scales, order):
    return ((values.astype(np.float32) - zeros.astype(np.float32)[order]) * scales.astype(np.float32)[order]).T


def gptq(values, zeros, scales, bits, order, less=1):
    places = range(32 // bits)
    stored = ((zeros.astype(int) - less) % (1 << bits)).astype(np.uint8)
    return {
        f"{NAME}.qweight": np.ascontiguousarray(words(values.T, bits, places).T),
        f"{NAME}.qzeros": words(stored, bits, places),
        f"{NAME}.scales": scales,
        f"{NAME}.g_idx": np.asarray(order, np.int32),
        "model.norm.weight": np.ones(COLUMNS, np.float16),
    }


def awq(values, zeros, scales):
    places = [0, 4, 1, 5, 2, 6, 3, 7]
    return {
        f"{NAME}.qweight": words(values, 4, places),
        f"{NAME}.qzeros": words(zeros, 4, places),
        f"{NAME}.scales": scales,
        "model.norm.weight": np.ones(COLUMNS, np.float16),
    }


@pytest.fixture
def opened(tmp_path):
    def opened(kind, tensors, config):
        save_file(tensors, tmp_path / "model.safetensors")
        return kind(SafetensorsFolder(tmp_path), config)

    return opened


def check(weights, wanted, stored, offsets):
    assert sorted(weights.names()) == [f"{NAME}.weight", "model.norm.weight"]
    assert weights.find("model.norm.weight").format.name == "F16"
    tensor = weights.find(f"{NAME}.weight")
    assert (tensor.shape, tensor.format.name) == ((ROWS, COLUMNS), stored)
    assert tensor.raw.shape == (ROWS, tensor.nbytes // ROWS)
    np.testing.assert_allclose(tensor.dense(), wanted, rtol=1e-5, atol=1e-6)
    assert (tensor.format.packing is not None and tensor.format.packing.offsets is not None) == offsets


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("layout", "less"), [(None, 1), ("gptq", 1), ("gptq_v2", 0)])
def test_gptq_matrices_are_what_their_parts_say(opened, bits, group, layout, less):
    values, zeros, scales = drawn(bits, group)
    order = np.arange(COLUMNS) // group
    config = {"bits": bits, "group_size": group} | ({"checkpoint_format": layout} if layout else {})
    weights = opened(GptqWeights, gptq(values, zeros, scales, bits, order, less), config)
    check(weights, multiplied_out(values, zeros, scales, order), f"INT{bits}_G{min(group, 128)}", offsets=True)


@pytest.mark.parametrize("bits", [4, 8])
def test_symmetric_gptq_needs_no_offsets(opened, bits):
    values, zeros, scales = drawn(bits, 64, symmetric=True)
    order = np.arange(COLUMNS) // 64
    weights = opened(GptqWeights, gptq(values, zeros, scales, bits, order), {"bits": bits})
    check(weights, multiplied_out(values, zeros, scales, order), f"INT{bits}_G64", offsets=False)


def test_gptq_groups_that_are_scattered_over_the_columns_become_float32(opened, caplog):
    values, zeros, scales = drawn(4, 64)
    order = np.random.default_rng(1).permutation(np.arange(COLUMNS) // 64)
    weights = opened(GptqWeights, gptq(values, zeros, scales, 4, order), {"bits": 4, "desc_act": True})
    check(weights, multiplied_out(values, zeros, scales, order), "F32", offsets=False)
    assert "1 matrices become float32" in caplog.text


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("symmetric", [False, True])
def test_awq_matrices_are_what_their_parts_say(opened, group, symmetric):
    values, zeros, scales = drawn(4, group, symmetric)
    weights = opened(AwqWeights, awq(values, zeros, scales), {"bits": 4, "group_size": group, "version": "GEMM"})
    wanted = multiplied_out(values, zeros, scales, np.arange(COLUMNS) // group)
    check(weights, wanted, f"INT4_G{group}", offsets=not symmetric)


def without(tensors, part):
    return {name: tensor for name, tensor in tensors.items() if name != f"{NAME}.{part}"}


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"bits": 3}, "GPTQ of 3 bits in format gptq; supported are 4 and 8 bits"),
        ({"bits": 4, "checkpoint_format": "marlin"}, "in format marlin"),
        ({}, "GPTQ of None bits"),
    ],
)
def test_other_kinds_of_gptq_are_refused(opened, config, complaint):
    with pytest.raises(InvalidModelFile, match=complaint):
        opened(GptqWeights, gptq(*drawn(4, 64), 4, np.arange(COLUMNS) // 64), config)


@pytest.mark.parametrize("config", [{"bits": 8}, {"bits": 4, "version": "gemv"}, {}])
def test_other_kinds_of_awq_are_refused(opened, config):
    with pytest.raises(InvalidModelFile, match="supported are 4 bits in gemm"):
        opened(AwqWeights, awq(*drawn(4, 64)), config)


@pytest.mark.parametrize(
    ("part", "value", "complaint"),
    [
        ("qzeros", None, "qzeros is missing"),
        ("scales", None, "scales is missing"),
        ("qzeros", np.zeros((4, 2), np.int32), "do not fit each other"),
        ("scales", np.zeros((4, 16), np.float16), "do not fit each other"),
        ("scales", np.zeros(4, np.float16), "no matrix of scales"),
        ("scales", np.zeros((0, 24), np.float16), "no matrix of scales"),
        ("qweight", np.zeros((32, 24), np.float32), "no int32 matrix"),
        ("g_idx", np.full(COLUMNS, 9, np.int32), "one of 4 groups"),
        ("g_idx", np.zeros(3, np.int32), "one of 4 groups"),
    ],
)
@pytest.mark.parametrize("kind", [GptqWeights, AwqWeights])
def test_parts_that_do_not_fit_are_refused(opened, kind, part, value, complaint):
    values, zeros, scales = drawn(4, 64)
    tensors = (
        gptq(values, zeros, scales, 4, np.arange(COLUMNS) // 64) if kind is GptqWeights else awq(values, zeros, scales)
    )
    if kind is AwqWeights and part == "g_idx":
        part, value, complaint = "qweight", np.zeros((COLUMNS, 4), np.int32), "do not fit each other"
    tensors = without(tensors, part) | ({f"{NAME}.{part}": value} if value is not None else {})
    with pytest.raises(InvalidModelFile, match=complaint):
        opened(kind, tensors, {"bits": 4})


@pytest.mark.parametrize(("columns", "groups"), [(96, 4), (160, 2), (65, 2), (0, 1)])
def test_groups_that_no_kernel_takes_are_refused(opened, columns, groups):
    tensors = {
        f"{NAME}.qweight": np.zeros((columns, 1), np.int32),
        f"{NAME}.qzeros": np.zeros((groups, 1), np.int32),
        f"{NAME}.scales": np.zeros((groups, 8), np.float16),
    }
    with pytest.raises(InvalidModelFile, match="only multiples of 32 are supported"):
        opened(AwqWeights, tensors, {"bits": 4})


def test_float8_matrices_are_multiplied_out(opened, caplog):
    rng = np.random.default_rng(6)
    values = rng.normal(0, 50, (200, 300)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(0.001, 0.01, (2, 3)).astype(np.float32)
    tensors = {
        f"{NAME}.weight": values,
        f"{NAME}.weight_scale_inv": scales,
        "lm_head.weight": np.ones((2, 2), np.float32),
    }
    with caplog.at_level(logging.WARNING):
        weights = opened(Float8Weights, tensors, {"weight_block_size": [128, 128]})
    assert "1 matrices become float32" in caplog.text
    assert sorted(weights.names()) == ["lm_head.weight", f"{NAME}.weight"]
    wanted = values.astype(np.float32)
    for row in range(200):
        for column in range(300):
            wanted[row, column] *= scales[row // 128, column // 128]
    tensor = weights.find(f"{NAME}.weight")
    assert (tensor.shape, tensor.format.name) == ((200, 300), "F32")
    np.testing.assert_allclose(tensor.dense(), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("scales", "tile", "complaint"),
    [
        (np.ones((2, 2), np.float32), [128, 128], r"tiles of \[128, 128\] need \[2, 3\]"),
        (None, [128, 128], "float8 without a matrix of scales"),
        (np.ones((2, 3), np.float32), None, "weight_block_size None"),
        (np.ones((2, 3), np.float32), [0, 128], "weight_block_size"),
        (np.ones((2, 3), np.float32), "128", "weight_block_size"),
    ],
)
def test_float8_that_is_scaled_otherwise_is_refused(opened, scales, tile, complaint):
    tensors = {f"{NAME}.weight": np.ones((200, 300), ml_dtypes.float8_e4m3fn)}
    if scales is not None:
        tensors[f"{NAME}.weight_scale_inv"] = scales
    with pytest.raises(InvalidModelFile, match=complaint):
        opened(Float8Weights, tensors, {"weight_block_size": tile})
