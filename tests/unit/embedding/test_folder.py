import json
from pathlib import Path

import numpy as np
import pytest
from narthex_server.embedders import is_embedder, load_embedder
from narthex_server.embedding.folder import EmbedderFolder
from narthex_server.embedding.head import Pooling
from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.loading import LoadOptions
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parents[2] / "golden"
ONNX = Path(__file__).parents[2] / "golden-onnx"


class Folder:
    """A folder of modules, written piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modules: list[dict[str, str]] = []
        self.add("Transformer", "")

    def add(self, kind: str, path: str, config: dict | None = None) -> "Folder":
        self.modules.append({"type": f"sentence_transformers.models.{kind}", "path": path})
        if config is not None:
            (self.path / path).mkdir(exist_ok=True)
            (self.path / path / "config.json").write_text(json.dumps(config))
        return self

    def read(self) -> EmbedderFolder:
        (self.path / "modules.json").write_text(json.dumps(self.modules))
        return EmbedderFolder.read(self.path)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True}, Pooling.MEAN),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, Pooling.FIRST),
        ({"pooling_mode_lasttoken": True}, Pooling.LAST),
        ({"pooling_mode_max_tokens": True}, Pooling.MAX),
        ({"pooling_mode": "cls"}, Pooling.FIRST),
        ({"pooling_mode": ["mean"]}, Pooling.MEAN),
    ],
)
def test_poolings_are_read_in_both_spellings(folder, config, pooling):
    assert folder.add("Pooling", "1_Pooling", config).add("Normalize", "2_Normalize").read().pooling is pooling


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "pooling cls and mean is not supported"),
        ({"pooling_mode_weightedmean_tokens": True}, "pooling weightedmean is not supported"),
        ({}, "pooling by nothing"),
        ({"pooling_mode": "mean", "include_prompt": False}, "leaving the instruction out"),
    ],
)
def test_poolings_that_are_not_there_are_refused_by_name(folder, config, complaint):
    with pytest.raises(InvalidModelFile, match=complaint):
        folder.add("Pooling", "1_Pooling", config).read()


def test_dense_layers_follow_their_config(folder):
    rng = np.random.default_rng(0)
    for number, shape, more in ((2, (6, 4), {}), (3, (3, 6), {"bias": False})):
        activation = "torch.nn.modules.activation.Tanh" if number == 2 else "torch.nn.modules.linear.Identity"
        config = {"in_features": shape[1], "out_features": shape[0], "activation_function": activation} | more
        folder.add("Dense", f"{number}_Dense", config)
        weights = {"linear.weight": rng.normal(size=shape).astype(np.float32)}
        if number == 2:
            weights["linear.bias"] = rng.normal(size=6).astype(np.float32)
        save_file(weights, folder.path / f"{number}_Dense" / "model.safetensors")
    folder.modules.insert(1, {"type": "x.Pooling", "path": "1_Pooling"})
    (folder.path / "1_Pooling").mkdir()
    (folder.path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    read = folder.read()
    first, second = read.dense
    x = rng.normal(size=4).astype(np.float32)
    wanted = second.weight @ np.tanh(first.weight @ x + first.bias)
    np.testing.assert_allclose(second.apply(first.apply(x)), wanted, rtol=1e-6)
    read.check(4)
    with pytest.raises(InvalidModelFile, match="dense layer 1 takes 4 numbers, but is given 5"):
        read.check(5)


DENSE = {"in_features": 4, "out_features": 2, "activation_function": "torch.nn.Tanh"}


@pytest.mark.parametrize(
    ("config", "weights", "complaint"),
    [
        (DENSE | {"activation_function": "torch.nn.ReLU"}, {}, "activation ReLU is not supported"),
        ({"in_features": 4}, {}, "out_features is missing"),
        (DENSE, {"linear.weight": (2, 4)}, "linear.bias is missing"),
        (DENSE | {"bias": False}, {"linear.weight": (4, 2)}, r"is \[4, 2\], the config says \[2, 4\]"),
    ],
)
def test_broken_dense_layers_say_why(folder, config, weights, complaint):
    folder.add("Pooling", "1_Pooling", {"pooling_mode": "mean"}).add("Dense", "2_Dense", config)
    values = {name: np.zeros(shape, np.float32) for name, shape in weights.items()}
    save_file(values, folder.path / "2_Dense" / "model.safetensors")
    with pytest.raises(InvalidModelFile, match=complaint):
        folder.read()


@pytest.mark.parametrize(
    ("modules", "complaint"),
    [
        ([("Transformer", ""), ("Pooling", "1_Pooling"), ("LayerNorm", "2_LayerNorm")], "LayerNorm are not supported"),
        ([("Pooling", "1_Pooling")], "Pooling are not supported"),
        ([("Transformer", ""), ("Pooling", "../other")], "lies outside the folder"),
        ([], "lists no module"),
    ],
)
def test_modules_that_cannot_be_followed_are_named(folder, modules, complaint):
    folder.modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    with pytest.raises(InvalidModelFile, match=complaint):
        folder.read()


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]", '[{"type": "x"}]'])
def test_a_broken_list_of_modules_is_no_crash(folder, text):
    (folder.path / "modules.json").write_text(text)
    with pytest.raises(InvalidModelFile, match=r"modules\.json"):
        EmbedderFolder.read(folder.path)


def test_limits_and_prompts_are_read(folder):
    (folder.path / "sentence_bert_config.json").write_text('{"max_seq_length": 77, "do_lower_case": true}')
    prompts = {"prompts": {"query": "query: "}}
    (folder.path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    read = folder.add("Pooling", "1_Pooling", {"pooling_mode": "mean"}).read()
    assert (read.max_tokens, read.lower_case, read.prompts) == (77, True, {"query": "query: "})


def linked(source: Path, target: Path, *without: str) -> Path:
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.name not in without:
            (target / file.name).symlink_to(file)
    return target


def test_settings_of_another_type_are_as_good_as_none(folder):
    (folder.path / "sentence_bert_config.json").write_text('{"max_seq_length": "many"}')
    (folder.path / "config_sentence_transformers.json").write_text('{"prompts": [1]}')
    read = folder.add("Pooling", "1_Pooling", {"pooling_mode": "mean"}).read()
    assert (read.max_tokens, read.prompts) == (0, {})


def test_decoders_and_embedders_are_told_apart(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "m.gguf").write_bytes(b"")
    assert is_embedder(tmp_path) and not is_embedder(tmp_path / "m.gguf")
    assert is_embedder(GOLDEN / "embed_qwen3") and not is_embedder(GOLDEN / "qwen3")
    assert not is_embedder(GOLDEN / "gguf_llama" / "tiny-llama-Q8_0.gguf") and not is_embedder(tmp_path / "none")
    assert is_embedder(linked(GOLDEN / "embed_bert", tmp_path / "bert", "modules.json", "1_Pooling"))


def test_a_text_has_no_more_tokens_than_the_folder_or_the_server_says(tmp_path):
    def limit(folder: Path, most: int = 8192) -> int:
        options = LoadOptions(max_context=most, threads=1, cache_dir=tmp_path / "graphs")
        return load_embedder(folder, options).session.max_len

    assert limit(GOLDEN / "embed_bert") == 128
    assert limit(GOLDEN / "embed_bert", 50) == 50
    assert limit(GOLDEN / "embed_qwen3") == 128
    assert limit(linked(GOLDEN / "embed_qwen3", tmp_path / "qwen3", "sentence_bert_config.json")) == 512


def test_a_family_whose_layers_keep_states_is_refused(tmp_path):
    folder = linked(GOLDEN / "lfm2", tmp_path / "m")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    with pytest.raises(InvalidModelFile, match="models with states"):
        load_embedder(folder, LoadOptions(cache_dir=None))


def test_a_cross_encoder_is_refused(tmp_path):
    folder = linked(GOLDEN / "embed_bert", tmp_path / "m", "modules.json", "1_Pooling", "config.json")
    config = json.loads((GOLDEN / "embed_bert" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(InvalidModelFile, match="classifies texts"):
        load_embedder(folder, LoadOptions(cache_dir=None))


def test_weights_win_over_a_graph_beside_them_and_a_graph_over_an_unknown_family(tmp_path):
    options = LoadOptions(threads=1, cache_dir=tmp_path / "graphs")
    both = linked(GOLDEN / "embed_bert", tmp_path / "both", "config.json")
    (both / "config.json").write_text((GOLDEN / "embed_bert" / "config.json").read_text())
    (both / "onnx").symlink_to(ONNX / "onnx_bert" / "onnx")
    assert load_embedder(both, options).compute == "float32"
    assert load_embedder(both / "onnx" / "model.onnx", options).compute == "onnx"
    config = json.loads((both / "config.json").read_text())
    (both / "config.json").write_text(json.dumps(config | {"model_type": "of_tomorrow"}))
    assert load_embedder(both, options).compute == "onnx"


def test_graphs_that_do_not_fit_are_refused(tmp_path):
    options = LoadOptions(threads=1, cache_dir=None)
    folder = linked(ONNX / "onnx_bert", tmp_path / "m", "onnx")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"no graph at all")
    with pytest.raises(InvalidModelFile, match=r"model\.onnx"):
        load_embedder(folder, options)
    whole = (ONNX / "onnx_bert" / "onnx" / "model.onnx").read_bytes()
    (folder / "onnx" / "model.onnx").write_bytes(whole[:-5000])
    with pytest.raises(InvalidModelFile, match=r"model\.onnx"):
        load_embedder(folder, options)
    decoder = next((ONNX / "onnx_llama" / "onnx").glob("model.onnx"))
    (folder / "onnx" / "model.onnx").unlink()
    (folder / "onnx" / "model.onnx").symlink_to(decoder)
    with pytest.raises(InvalidModelFile, match="is not one that an encoder of tokens has"):
        load_embedder(folder, options)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_attention_heads": 7}, "cannot be split into 7 heads"),
        ({"hidden_act": "swiglu"}, "hidden_act swiglu is not supported"),
        ({"position_embedding_type": "relative_key"}, "relative_key is not supported"),
        ({"intermediate_size": 100}, "the config says"),
        ({"num_hidden_layers": 9}, "is missing"),
        ({"hidden_size": None}, "config"),
        ({"max_position_embeddings": [1]}, "config"),
        ({"model_type": "roberta", "pad_token_id": "x"}, "config"),
        ({"model_type": "mpnet", "relative_attention_num_buckets": 3}, "not a multiple of 4"),
        (
            {"model_type": "tomorrow", "architectures": 7},
            "'tomorrow' is not supported; supported are bert, .*encoders/tomorrow",
        ),
    ],
)
def test_a_config_that_does_not_fit_says_why(tmp_path, change, complaint):
    folder = linked(GOLDEN / "embed_bert", tmp_path / "m", "config.json")
    config = json.loads((GOLDEN / "embed_bert" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InvalidModelFile, match=complaint):
        load_embedder(folder, LoadOptions(cache_dir=None))


@pytest.mark.parametrize("option", ["xlora", "tokenizer"])
def test_options_of_models_that_generate_are_refused(option):
    options = LoadOptions(cache_dir=None, **{option: GOLDEN / "llama"})
    with pytest.raises(InvalidRequest, match="makes embeddings: it takes neither an X-LoRA nor another tokenizer"):
        load_embedder(GOLDEN / "embed_bert", options)
