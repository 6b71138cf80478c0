import time
from pathlib import Path

import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.onnx_file import OnnxFile, Value

GOLDEN = Path(__file__).parents[2] / "golden-onnx"


def field(number: int, payload: bytes | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def model(*graph: bytes) -> bytes:
    return field(1, 10) + field(7, b"".join(graph))


def tensor(*shape: int, raw: bytes = b"", **external: str) -> bytes:
    """An initializer called w, of float32."""
    dims = b"".join(field(1, extent) for extent in shape)
    entries = b"".join(field(13, field(1, key.encode()) + field(2, text.encode())) for key, text in external.items())
    return field(5, dims + field(2, 1) + field(8, b"w") + (field(9, raw) if raw else b"") + entries)


@pytest.fixture
def write(tmp_path):
    def one(data: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        return path

    return one


def test_a_graph_is_described(write):
    file = OnnxFile(GOLDEN / "genai_llama_int4" / "model.onnx")
    assert file.inputs[0] == Value("input_ids", "int64", ("batch_size", "sequence_length"))
    assert file.outputs[1] == Value(
        "present.0.key", "float32", ("batch_size", 2, "total_sequence_length", "kv_cache_dim")
    )
    product = next(node for node in file.nodes if node.operator == "MatMulNBits")
    assert product.integers == {"K": 64, "N": 128, "accuracy_level": 4, "bits": 4, "block_size": 32}
    assert file.tensors[product.inputs[1]].shape == (128, 2, 16)
    assert file.tensors[product.inputs[1]].location == "model.onnx.data"


def test_the_nodes_of_both_halves_of_a_merged_decoder_are_seen():
    merged = OnnxFile(GOLDEN / "onnx_llama_merged" / "onnx" / "decoder_model_merged.onnx")
    plain = OnnxFile(GOLDEN / "onnx_llama" / "onnx" / "model.onnx")
    products = [sum(node.operator == "MatMul" for node in file.nodes) for file in (plain, merged)]
    assert products[1] == 2 * products[0] > 0


def test_a_file_cut_or_changed_anywhere_is_read_or_refused_at_once(write):
    whole = (GOLDEN / "genai_llama_fp32" / "model.onnx").read_bytes()
    rng, begun, refused = np.random.default_rng(4), time.monotonic(), 0
    for _ in range(150):
        data = np.frombuffer(whole, np.uint8).copy()[: rng.integers(1, len(whole) + 1)]
        data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        try:
            OnnxFile(write(data.tobytes()))
        except InvalidModelFile:
            refused += 1
    assert refused > 100 and time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes are no ONNX file"),
        (b"GGUF not a protobuf", "broken ONNX file"),
        (field(1, 8), "it has no graph"),
        (model()[:-1] + b"\x7f", "truncated: a field takes 127 bytes, 0 are left"),
        (model(tensor(1 << 40, 1 << 20, raw=b"1234")), r"tensor w \[1099511627776, 1048576\] has 4 bytes"),
        (model(tensor((1 << 64) - 1, raw=b"1234")), r"tensor w \[-1\] has 4 bytes"),
        (model(tensor(8, location="weights", offset="0", length="16")), r"tensor w \[8\] of float32 has 16 bytes at 0"),
        (model(tensor(8, location="weights", offset="x")), "the place of its data is no number"),
        (model(tensor(8, location="../weights")), "weights lie outside the folder, in ../weights"),
        (model(tensor(8, location="/etc/passwd")), "weights lie outside the folder, in /etc/passwd"),
        (model(tensor(8, location="weights")), "its weights are in weights, which is not beside it"),
        (model(tensor(8, location="w" * 300)), "w, which is not beside it"),
        (b"\x3b", "a field of wire type 3"),
        (b"\xff" * 11, "truncated, or not a protobuf"),
    ],
)
def test_what_is_broken_is_refused_with_its_reason(write, data, reason):
    with pytest.raises(InvalidModelFile, match=reason):
        OnnxFile(write(data))


def test_weights_beside_the_graph_that_are_too_short_are_refused(write, tmp_path):
    (tmp_path / "weights").write_bytes(bytes(40))
    assert OnnxFile(write(model(tensor(8, location="weights", offset="8", length="32")))).tensors["w"].stored == 32
    with pytest.raises(InvalidModelFile, match="truncated: tensor w ends at byte 48 of 40"):
        OnnxFile(write(model(tensor(8, location="weights", offset="16", length="32"))))


def test_graphs_in_graphs_without_end_are_refused(write):
    graph = b""
    for _ in range(1000):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(InvalidModelFile, match="nested deeper than 16"):
        OnnxFile(write(model(graph)))


def test_fields_without_number_are_refused_within_seconds(write):
    begun = time.monotonic()
    with pytest.raises(InvalidModelFile, match="more than 1000000 fields"):
        OnnxFile(write(field(15, b"") * 3_000_000))
    assert time.monotonic() - begun < 5
