import json

import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.safetensors import SafetensorsFolder
from safetensors.numpy import save_file


def test_shards_are_found_through_their_index(tmp_path):
    first, second = np.eye(3, dtype=np.float32), np.full((2, 2), 0.5, np.float16)
    save_file({"a": first}, tmp_path / "model-1.safetensors")
    save_file({"b": second}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    folder = SafetensorsFolder(tmp_path)
    assert sorted(folder.names()) == ["a", "b"]
    np.testing.assert_array_equal(folder.find("a").dense(), first)
    np.testing.assert_array_equal(folder.find("b").dense(), second)
    assert folder.find("c") is None


def test_a_shard_outside_the_folder_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(InvalidModelFile, match="outside the folder"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("files", [{"a": 7}, {"a": None}, {}, {str(i): f"{i}.safetensors" for i in range(5000)}])
def test_an_index_that_names_no_files_or_far_too_many_is_refused(tmp_path, files):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(InvalidModelFile, match="does not name 1 to 4096 files"):
        SafetensorsFolder(tmp_path)


def test_a_file_that_the_system_does_not_open_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x" * 300}}))
    with pytest.raises(InvalidModelFile, match="cannot be read: File name too long"):
        SafetensorsFolder(tmp_path)


def test_a_file_cut_at_any_byte_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones((4, 4), np.float32)}, path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InvalidModelFile, match=r"truncated|too few"):
            SafetensorsFolder(tmp_path)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"{", "broken safetensors header"),
        ([], "broken safetensors header"),
        ({"a": {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [0, 2]}}, "type F8_E5M2; supported are F32"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, "needs 16 bytes"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, "needs 8 bytes"),
        ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "broken safetensors header"),
        (b'{"a": 1, "a": 2}', "a name occurs twice"),
        (b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}', "cannot convert float infinity"),
        (b"[" * 100_000, "RecursionError"),
        ({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, r"has the shape \[-1, -2\]"),
        ({"a": {"dtype": "F32", "shape": [1 << 60] * 50_000, "data_offsets": [0, 8]}}, "has the shape"),
        ({"a": {"dtype": "F32", "shape": [1 << 60, 16], "data_offsets": [0, 0]}}, "needs 73786976294838206464 bytes"),
        (
            {"a": {"dtype": "F16", "shape": [3], "data_offsets": [0, 6]},
             "b": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]}},
            "tensors a and b overlap at byte 4",
        ),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_refused(write_safetensors, header, complaint):
    with pytest.raises(InvalidModelFile, match=complaint):
        SafetensorsFolder(write_safetensors(header, bytes(8)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidModelFile, match=r"model\.safetensors: missing"):
        SafetensorsFolder(tmp_path)


def test_a_header_larger_than_any_is_refused_unread(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((1 << 25).to_bytes(8, "little"))
        file.truncate(1 << 26)
    with pytest.raises(InvalidModelFile, match="a header of 33554432 bytes"):
        SafetensorsFolder(tmp_path)
