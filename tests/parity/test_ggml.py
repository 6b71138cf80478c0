"""A Llama as a file from before GGUF, written from its Hugging Face folder as the converters of the time did."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile, NotFound
from narthex_server.loading import LoadOptions, load
from narthex_server.weights.safetensors import SafetensorsFolder

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "input_layernorm": "attention_norm", "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output",
}  # fmt: skip
HEADS = {"attention.wq": 4, "attention.wk": 2}


def write(path: Path, kind: gguf.GGMLQuantizationType) -> Path:
    source = SafetensorsFolder(GOLDEN / "llama")
    tensors = {name: source.find(name).dense() for name in source.names()}
    vocab, hidden = tensors["model.embed_tokens.weight"].shape
    data = struct.pack("<2I7i", 0x67676A74, 3, vocab, hidden, 32, 4, 3, hidden // 4, int(kind))
    data += (struct.pack("<If", 0, 0.0)) * vocab
    for name, array in tensors.items():
        stem, layer = name.removesuffix(".weight"), ""
        if stem.startswith("model.layers."):
            _, _, number, stem = stem.split(".", 3)
            layer = f"layers.{number}."
        short = NAMES[stem]
        if heads := HEADS.get(short):
            array = array.reshape(heads, 2, -1, hidden).swapaxes(1, 2).reshape(array.shape)
        stored = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        label = f"{layer}{short}.weight".encode()
        data += struct.pack(f"<3I{array.ndim}I", array.ndim, len(label), int(stored), *array.shape[::-1]) + label
        data += bytes(-len(data) % 32) + gguf.quantize(array, stored).tobytes()
    path.write_bytes(data)
    return path


def options(cache: Path, compute: str = "float32", tokenizer: Path | None = GOLDEN / "llama") -> LoadOptions:
    return LoadOptions(compute, threads=2, slots=1, max_context=256, cache_dir=cache, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("kind", "compute", "tolerance"), [("F32", "float32", 1e-3), ("F16", "float32", 1e-2), ("Q8_0", "auto", 0.9)]
)
def test_logits_are_those_of_the_folder(tmp_path, prompts_of, kind, compute, tolerance):
    path = write(tmp_path / "model.bin", gguf.GGMLQuantizationType[kind])
    model = load(path, options(tmp_path / "cache", compute))
    assert (model.model_type, model.quantization) == ("llama", kind)
    assert model.text.tokenizer.encode("Hello world") == prompts_of("llama")[0].ids.tolist()
    for prompt in prompts_of("llama"):
        length = len(prompt.ids)
        logits = model.session.prefill(0, prompt.ids, 0, np.arange(prompt.start, length), length)
        np.testing.assert_allclose(logits, prompt.logits, rtol=0, atol=tolerance, err_msg=prompt.name)
    model.session.close()


def test_the_tokenizer_is_the_one_beside_the_file_or_the_one_named_and_missed_otherwise(tmp_path):
    path = write(tmp_path / "model.bin", gguf.GGMLQuantizationType.F32)
    with pytest.raises(InvalidModelFile, match=r"GGML files need a tokenizer; name a folder .* with --tokenizer"):
        load(path, options(tmp_path / "cache", tokenizer=None))
    with pytest.raises(NotFound, match="no tokenizer folder at"):
        load(path, options(tmp_path / "cache", tokenizer=tmp_path / "none"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(GOLDEN / "llama" / name)
    model = load(path, options(tmp_path / "cache", tokenizer=None))
    assert model.text.template is not None
    model.session.close()


def test_what_the_folder_of_the_tokenizer_says_is_not_taken_from_a_graph_of_another_one(tmp_path):
    path = write(tmp_path / "model.bin", gguf.GGMLQuantizationType.F32)
    logits = []
    for theta in (10_000.0, 100.0):
        folder = tmp_path / f"theta_{theta:g}"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).symlink_to(GOLDEN / "llama" / name)
        (folder / "config.json").write_text(json.dumps({"rope_theta": theta}))
        session = load(path, options(tmp_path / "cache", tokenizer=folder)).session
        logits.append(session.prefill(0, np.arange(20), 0, np.array([19]), 20).copy())
        session.close()
    assert np.abs(logits[1] - logits[0]).max() > 1e-2


def test_a_named_tokenizer_replaces_the_models_own(tmp_path):
    file = GOLDEN / "gguf_llama" / "tiny-llama-Q8_0.gguf"
    model = load(file, options(tmp_path, tokenizer=GOLDEN / "mistral_swa"))
    own = load(file, options(tmp_path, tokenizer=None))
    assert model.text.tokenizer.encode("Hello") != own.text.tokenizer.encode("Hello")
    for one in (model, own):
        one.session.close()
