import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.ggml import Unsaid, is_ggml, open_ggml

VOCAB, HIDDEN, HEADS, KEY_HEADS, LAYERS, FEED_FORWARD = 20, 64, 4, 2, 2, 96
KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_1": 7, "Q8_0": 8}
MAGICS = {"ggml": 0x67676D6C, "ggmf": 0x67676D66, "ggjt": 0x67676A74}
Write = Callable[..., Path]


def shapes() -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KEY_HEADS
    layer = {
        "attention.wq": (HIDDEN, HIDDEN), "attention.wk": (kv, HIDDEN), "attention.wv": (kv, HIDDEN),
        "attention.wo": (HIDDEN, HIDDEN), "attention_norm": (HIDDEN,), "feed_forward.w1": (FEED_FORWARD, HIDDEN),
        "feed_forward.w2": (HIDDEN, FEED_FORWARD), "feed_forward.w3": (FEED_FORWARD, HIDDEN), "ffn_norm": (HIDDEN,),
    }  # fmt: skip
    outer = {"tok_embeddings": (VOCAB, HIDDEN), "norm": (HIDDEN,), "output": (VOCAB, HIDDEN)}
    return outer | {f"layers.{index}.{name}": shape for index in range(LAYERS) for name, shape in layer.items()}


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes().items()}


@pytest.fixture
def write(tmp_path: Path, values: dict[str, np.ndarray]) -> Write:
    """Write the values, matrices in a format, as the converters of the time did."""

    def write(kind: str = "F32", magic: str = "ggjt", version: int = 3) -> Path:
        data = struct.pack("<I", MAGICS[magic]) + (b"" if magic == "ggml" else struct.pack("<I", version))
        data += struct.pack("<7i", VOCAB, HIDDEN, 32, HEADS, LAYERS, HIDDEN // HEADS, KINDS[kind])
        for index in range(VOCAB):
            token = b"t" * (index % 4)
            data += struct.pack("<I", len(token)) + token + (b"" if magic == "ggml" else struct.pack("<f", -index))
        for name, array in values.items():
            stored = kind if array.ndim == 2 else "F32"
            label = f"{name}.weight".encode()
            data += struct.pack(f"<3I{array.ndim}I", array.ndim, len(label), KINDS[stored], *array.shape[::-1]) + label
            data += bytes(-len(data) % 32) if magic == "ggjt" else b""
            data += gguf.quantize(array, gguf.GGMLQuantizationType[stored]).tobytes()
        path = tmp_path / "model.bin"
        path.write_bytes(data)
        return path

    return write


def unpermuted(array: np.ndarray, heads: int) -> np.ndarray:
    return array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_come_back_under_hugging_faces_names(write: Write, values: dict, kind: str) -> None:
    path = write(kind)
    model = open_ggml(path)
    assert is_ggml(path)
    assert len(list(model.names())) == len(values)
    stored = gguf.GGMLQuantizationType[kind]

    def kept(name: str) -> np.ndarray:
        return gguf.dequantize(gguf.quantize(values[name], stored), stored)

    layer = "model.layers.1"
    for name, wanted in (
        ("model.embed_tokens", kept("tok_embeddings")),
        ("lm_head", kept("output")),
        ("model.norm", values["norm"]),
        (f"{layer}.self_attn.q_proj", unpermuted(kept("layers.1.attention.wq"), HEADS)),
        (f"{layer}.self_attn.k_proj", unpermuted(kept("layers.1.attention.wk"), KEY_HEADS)),
        (f"{layer}.self_attn.v_proj", kept("layers.1.attention.wv")),
        (f"{layer}.mlp.gate_proj", kept("layers.1.feed_forward.w1")),
        (f"{layer}.mlp.down_proj", kept("layers.1.feed_forward.w2")),
        (f"{layer}.post_attention_layernorm", values["layers.1.ffn_norm"]),
    ):
        found = model.find(f"{name}.weight")
        assert found.name == f"{name}.weight"
        np.testing.assert_allclose(found.dense(), wanted, rtol=0, atol=1e-6, err_msg=name)
    assert model.find("model.layers.2.mlp.up_proj.weight") is None


def test_the_config_follows_from_numbers_and_shapes(write: Write) -> None:
    config = open_ggml(write(), Unsaid(rms_norm_eps=1e-5)).config
    expected = {
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": HIDDEN // HEADS,
        "vocab_size": VOCAB, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
    }  # fmt: skip
    assert expected.items() <= config.items()


@pytest.mark.parametrize(("magic", "version"), [("ggml", 0), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2)])
def test_older_versions_are_read_where_they_are_not_quantised(write: Write, magic: str, version: int) -> None:
    latest = open_ggml(write("F16"))
    wanted = {name: latest.find(name).dense().copy() for name in latest.names()}
    older = open_ggml(write("F16", magic, version))
    for name, array in wanted.items():
        np.testing.assert_array_equal(older.find(name).dense(), array)
    with pytest.raises(InvalidModelFile, match=f"{magic} version {version} keeps Q4_0 in an older layout"):
        open_ggml(write("Q4_0", magic, version))


def test_a_file_cut_at_any_byte_is_refused(write: Write) -> None:
    path = write("Q8_0")
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 211):
        path.write_bytes(whole[:size])
        with pytest.raises(InvalidModelFile, match=r"truncated|not a GGML file|is missing"):
            open_ggml(path)


@pytest.mark.parametrize(
    ("at", "code", "value", "complaint"),
    [
        (0, "I", 0x46554747, "not a GGML file: it starts with b'GGUF'"),
        (4, "I", 4, "ggjt version 4 is not known"),
        (8, "i", -5, "-5 tokens"),
        (8, "i", 1 << 30, "1073741824 tokens"),
        (20, "i", 0, "0 heads"),
        (20, "i", 7, "7 heads do not divide 64 columns"),
        (24, "i", 1 << 30, "1073741824 layers"),
        (28, "i", 8, "8 of the 16 columns of a head rotate"),
        (36, "I", 1 << 31, "a token of 2147483648 bytes"),
    ],
)
def test_absurd_numbers_are_refused(write: Write, at: int, code: str, value: int, complaint: str) -> None:
    path = write()
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{code}", data, at, value)
    path.write_bytes(data)
    with pytest.raises(InvalidModelFile, match=complaint):
        open_ggml(path)


def test_any_changed_byte_is_read_or_refused(write: Write) -> None:
    path = write()
    whole = path.read_bytes()
    for at in range(0, 2000, 3):
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        try:
            open_ggml(path)
        except InvalidModelFile as error:
            assert str(path) in error.message
