import gguf
import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.gguf import GgufFile


def test_metadata_and_tensors_come_back_as_written(write_gguf):
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    file = GgufFile(write_gguf({"a": matrix, "b": matrix.astype(np.float16)}))
    expected = {
        "general.architecture": "llama", "t.flag": True, "t.small": 200, "t.large": -(1 << 40), "t.real": 0.5,
        "t.text": "näher", "t.numbers": [1, 2, 3], "t.words": ["a", "", "ĠB"],
    }  # fmt: skip
    assert expected.items() <= file.metadata.items()
    np.testing.assert_array_equal(file.tensors["a"].dense(), matrix)
    np.testing.assert_array_equal(file.tensors["b"].dense(), matrix)


def test_a_file_cut_at_any_byte_is_refused(write_gguf):
    path = write_gguf({"a": np.ones((8, 32), np.float32)})
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(InvalidModelFile, match=r"truncated|too few"):
            GgufFile(path)


def test_a_file_with_any_byte_changed_is_read_or_refused(write_gguf):
    path = write_gguf({"a": np.ones((2, 32), np.float32)})
    whole = path.read_bytes()
    for at in range(4, len(whole) - 256, 3):
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        try:
            GgufFile(path)
        except InvalidModelFile as error:
            assert str(path) in error.message


def test_another_kind_of_file_is_named_by_its_first_bytes(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InvalidModelFile, match="not a GGUF file"):
        GgufFile(path)


def test_another_version_is_refused(write_gguf):
    path = write_gguf({})
    data = bytearray(path.read_bytes())
    data[4] = 9
    path.write_bytes(data)
    with pytest.raises(InvalidModelFile, match="version 9"):
        GgufFile(path)


def test_an_unsupported_tensor_type_is_named(write_gguf):
    raw = gguf.quantize(np.ones((2, 256), np.float32), gguf.GGMLQuantizationType.TQ2_0)
    path = write_gguf({"blk.0.x": raw}, {"blk.0.x": gguf.GGMLQuantizationType.TQ2_0})
    with pytest.raises(InvalidModelFile, match=r"blk\.0\.x has type TQ2_0; supported are F32") as caught:
        GgufFile(path)
    assert caught.value.reason == "UNSUPPORTED_TENSOR_TYPE"


def test_a_type_without_a_kernel_is_converted_and_said_once(write_gguf, caplog):
    values = np.linspace(-1, 1, 8).reshape(2, 4)
    kinds = dict.fromkeys(("a", "b"), gguf.GGMLQuantizationType.F64)
    with caplog.at_level("INFO", logger="narthex_server"):
        file = GgufFile(write_gguf({"a": values, "b": values, "c": np.ones(4, np.float32)}, kinds))
    np.testing.assert_array_equal(file.tensors["a"].dense(), values.astype(np.float32))
    ours = [record.message for record in caplog.records if record.name.startswith("narthex_server")]
    assert ours == [f"{file.path}: no kernel multiplies F64: 2 tensors become float32"]
