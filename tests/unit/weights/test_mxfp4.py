"""Experts in MXFP4 as gpt-oss has them."""

import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.mxfp4 import Mxfp4Weights
from narthex_server.weights.safetensors import SafetensorsFolder
from safetensors.numpy import save_file

CODES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
STEM = "model.layers.0.mlp.experts.down_proj"


def opened(folder, blocks, scales, **others):
    save_file({f"{STEM}_blocks": blocks, f"{STEM}_scales": scales, **others}, folder / "model.safetensors")
    return Mxfp4Weights(SafetensorsFolder(folder), {"quant_method": "mxfp4"})


def test_each_expert_is_a_matrix_of_its_own(tmp_path):
    rng = np.random.default_rng(3)
    blocks = rng.integers(256, size=(3, 6, 2, 16), dtype=np.uint8)
    scales = rng.integers(100, 150, size=(3, 6, 2), dtype=np.uint8)
    weights = opened(tmp_path, blocks, scales, bias=np.ones(4, np.float32))
    names = [f"model.layers.0.mlp.experts.{index}.down_proj.weight" for index in range(3)]
    assert sorted(weights.names()) == sorted(["bias", *names])
    for index, name in enumerate(names):
        tensor = weights.find(name)
        assert (tensor.shape, tensor.format.name, tensor.raw.nbytes) == ((6, 64), "MXFP4", tensor.nbytes)
        pairs = np.stack((CODES[blocks[index] & 15], CODES[blocks[index] >> 4]), axis=-1).reshape(6, 2, 32)
        wanted = pairs * 2.0 ** (scales[index].astype(int) - 127)[..., None]
        np.testing.assert_array_equal(tensor.dense(), wanted.reshape(6, 64))
        np.testing.assert_array_equal(tensor.alternate(1).dense(), wanted.reshape(6, 64)[1::2])


@pytest.mark.parametrize(
    ("blocks", "scales", "says"),
    [
        (np.zeros((2, 4, 2, 16), np.uint8), np.zeros((2, 4, 3), np.uint8), r"\[2, 4, 2, 16\] and .* \[2, 4, 3\]"),
        (np.zeros((2, 4, 2, 8), np.uint8), np.zeros((2, 4, 2), np.uint8), "do not fit"),
        (np.zeros((8, 16), np.uint8), np.zeros(8, np.uint8), "do not fit"),
        (np.zeros((0, 4, 2, 16), np.uint8), np.zeros((0, 4, 2), np.uint8), "do not fit"),
        (np.zeros((2, 4, 2, 16), np.uint8), np.zeros((2, 4, 2), np.float32), "not bytes"),
        (np.zeros((5000, 1, 1, 16), np.uint8), np.zeros((5000, 1, 1), np.uint8), "5000 experts"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(tmp_path, blocks, scales, says):
    with pytest.raises(InvalidModelFile, match=says):
        opened(tmp_path, blocks, scales)


def test_blocks_without_scales_are_refused(tmp_path):
    save_file({f"{STEM}_blocks": np.zeros((1, 1, 1, 16), np.uint8)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidModelFile, match="are not both there"):
        Mxfp4Weights(SafetensorsFolder(tmp_path), {"quant_method": "mxfp4"})
