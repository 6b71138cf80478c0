import json
from pathlib import Path

import onnx_ir as ir
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.onnx_folder import find_graph, read_onnx

GOLDEN = Path(__file__).parents[2] / "golden-onnx"
F, I = ir.DataType.FLOAT, ir.DataType.INT64  # noqa: E741
TOKENS = {"input_ids": (I, ("b", "s"))}
CACHE = ("b", 2, "p", 4)
KEYS = {"past_key_values.0.key": (F, CACHE)}
LOGITS = {"logits": (F, ("b", "s", 9)), "present.0.key": (F, CACHE)}


@pytest.fixture
def export(tmp_path):
    """Write a graph of these inputs and outputs, and the config beside it."""

    def one(inputs: dict, outputs: dict, config: dict | None = None, name: str = "config.json") -> Path:
        values = [[ir.val(n, kind, shape) for n, (kind, shape) in side.items()] for side in (inputs, outputs)]
        graph = ir.Graph(*values, nodes=[], opset_imports={"": 17}, name="decoder")
        path = tmp_path / "model.onnx"
        ir.save(ir.Model(graph, ir_version=10), path)
        (tmp_path / name).write_text(json.dumps(config if config is not None else {"model_type": "tiny"}))
        return path

    return one


def genai(decoder: dict | None = None, **model: object) -> dict:
    return {"model": {"type": "tiny", "decoder": {"filename": "model.onnx", **(decoder or {})}, **model}}


def test_the_exact_graph_is_preferred_and_any_can_be_named(tmp_path):
    onnx = tmp_path / "onnx"
    onnx.mkdir()
    for name in ("model_q4f16.onnx", "model_fp16.onnx"):
        (onnx / name).write_bytes(b"")
    assert find_graph(tmp_path) == onnx / "model_fp16.onnx"
    (onnx / "model_q4.onnx").write_bytes(b"")
    assert find_graph(tmp_path) == onnx / "model_q4.onnx"
    (onnx / "model.onnx").write_bytes(b"")
    assert find_graph(tmp_path) == onnx / "model.onnx"
    assert find_graph(onnx / "model_q4f16.onnx") == onnx / "model_q4f16.onnx"


def test_a_single_graph_may_have_any_name_but_several_need_a_choice(tmp_path):
    assert find_graph(tmp_path) is None
    (tmp_path / "llm.onnx").write_bytes(b"")
    assert find_graph(tmp_path) == tmp_path / "llm.onnx"
    (tmp_path / "decoder_with_past_model.onnx").write_bytes(b"")
    with pytest.raises(InvalidModelFile, match=r"decoder_with_past_model.onnx, llm.onnx: name one, for example"):
        find_graph(tmp_path)


def test_the_file_and_the_names_of_a_genai_folder_are_those_of_its_config(export, tmp_path):
    decoder = {
        "filename": "model.onnx", "num_key_value_heads": 3, "head_size": 8,
        "inputs": {"input_ids": "words", "past_key_names": "old_%d_keys", "past_state_names": "old_%d_state"},
        "outputs": {"logits": "scores", "present_key_names": "new_%d_keys", "present_state_names": "new_%d_state"},
    }  # fmt: skip
    caches = {"old_12_keys": (F, ("b", "h", "p", "d")), "old_3_state": (F, ("b", 5, 2))}
    outputs = {"scores": (F, ("b", "s", "v")), "new_12_keys": (F, CACHE), "new_3_state": (F, CACHE)}
    export(
        {"words": (ir.DataType.INT32, ("b", "s")), **caches},
        outputs,
        genai(decoder, vocab_size=77, context_length=40, eos_token_id=[4, 5]),
        "genai_config.json",
    )
    model = read_onnx(find_graph(tmp_path))
    ports = model.ports
    assert (ports.tokens.name, ports.tokens.dtype, ports.logits, ports.vocab_size) == ("words", "int32", "scores", 77)
    assert [(cache.past, cache.present, cache.shape) for cache in ports.caches] == [
        ("old_12_keys", "new_12_keys", ("slots", 3, "max_len", 8)),
        ("old_3_state", "new_3_state", ("slots", 5, 2)),
    ]
    assert (model.model_type, model.context, model.eos_ids) == ("tiny", 40, {4, 5})


def test_a_graph_in_a_folder_called_onnx_has_its_texts_above(tmp_path):
    assert read_onnx(GOLDEN / "onnx_llama" / "onnx" / "model_q4.onnx").folder == GOLDEN / "onnx_llama"
    assert read_onnx(GOLDEN / "genai_llama_fp32" / "model.onnx").folder == GOLDEN / "genai_llama_fp32"


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        (TOKENS, {"last_hidden_state": (F, ("b", "s", 9))}, "an encoder, as for embeddings"),
        (TOKENS, LOGITS, "without a cache: export it with past key values"),
        ({"inputs_embeds": (F, CACHE), **KEYS}, LOGITS, "a part of a model for images or speech and text"),
        ({**TOKENS, "encoder_hidden_states": (F, CACHE)}, LOGITS, "the decoder of an encoder-decoder"),
        ({"pixel_values": (F, CACHE)}, LOGITS, "for images"),
        ({**TOKENS, **KEYS, "beam": (I, ("b",))}, LOGITS, "wants beam, which is not known"),
        ({**TOKENS, **KEYS, "position_ids": (I, (3, "b", "s"))}, LOGITS, "wants positions of 3 dimensions"),
        ({**TOKENS, "past_key_values.0.key": (F, ("b", 2, 512, 4))}, LOGITS, "has a fixed length of 512"),
        ({**TOKENS, "past_key_values.0.key": (F, ("b", "p", 8))}, LOGITS, r"has the shape \['b', 'p', 8\]"),
        ({**TOKENS, "past_key_values.0.key": (F, ("b", 2, 4, "p"))}, LOGITS, r"has the shape \['b', 2, 4, 'p'\]"),
        ({**TOKENS, "past_key_values.0.key": (ir.DataType.INT8, CACHE)}, LOGITS, "key is int8; supported are float32"),
        ({**TOKENS, **KEYS}, {**LOGITS, "logits": (F, ("b", 9))}, r"gives logits of float32 \['b', 9\]"),
        (
            {**TOKENS, "past_key_values.0.key": (F, ("b", "h", "p", 4))},
            LOGITS,
            "neither graph nor config has the heads",
        ),
    ],
)
def test_what_is_no_decoder_with_a_cache_is_refused_by_what_it_is(export, inputs, outputs, reason):
    with pytest.raises(InvalidModelFile, match=reason):
        read_onnx(export(inputs, outputs))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (genai(encoder={}, type="whisper"), "model type whisper is an encoder-decoder"),
        (genai(vision={}, type="phi3v"), "model type phi3v is for images and text"),
        (genai({"pipeline": []}), "split into a pipeline of several graphs"),
        (genai({"inputs": ["input_ids"]}), "model.decoder.inputs does not map to names"),
        (genai(context_length="long"), "context_length is 'long'"),
        (genai(vocab_size=1 << 40), "vocab_size is 1099511627776"),
        (genai(eos_token_id="</s>"), "eos_token_id is '</s>'"),
        (genai({"filename": "../model.onnx"}), "lies outside the folder"),
        (genai({"filename": "other.onnx"}), r"other.onnx: missing"),
        ({"model": []}, "model.decoder is missing"),
    ],
)
def test_a_genai_config_that_does_not_fit_is_refused(export, tmp_path, config, reason):
    export({**TOKENS, **KEYS}, LOGITS, config, "genai_config.json")
    with pytest.raises(InvalidModelFile, match=reason):
        read_onnx(find_graph(tmp_path))


def test_a_config_that_is_no_json_is_refused(export, tmp_path):
    path = export({**TOKENS, **KEYS}, LOGITS)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidModelFile, match=r"config.json: not JSON"):
        read_onnx(path)
