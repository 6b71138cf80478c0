"""Embedders against the reference implementation, and encoders of other dimensions against NumPy."""

import json
from pathlib import Path

import numpy as np
import pytest
from narthex_server.embedders import LoadedEmbedder, is_embedder, load_embedder
from narthex_server.embedding.head import Pooling, pool
from narthex_server.errors import InvalidModelFile, InvalidRequest, NotFound
from narthex_server.loading import LoadOptions
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[1]
FOLDERS = ["golden/embed_bert", "golden/embed_qwen3", "golden/embed_gemma", "golden-onnx/onnx_bert"]
QUANTISED = "golden-onnx/onnx_bert/onnx/model_quantized.onnx"
RAW, NORMALISED, COSINE = 1e-4, 1e-5, 0.99999


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    cache = tmp_path_factory.mktemp("graphs")

    def load(path: Path) -> LoadedEmbedder:
        assert is_embedder(path)
        return load_embedder(path, LoadOptions("float32", threads=2, cache_dir=cache))

    return load


class Golden:
    def __init__(self, folder: Path) -> None:
        golden, tensors = json.loads((folder / "golden.json").read_text()), load_file(folder / "golden.safetensors")
        self.texts = [entry["text"] for entry in golden["texts"]]
        self.ids = [entry["input_ids"] for entry in golden["texts"]]
        self.raw = tensors[golden["tensors"]["raw"]]
        self.normalised = tensors[golden["tensors"]["normalized"]]
        self.hidden = {i: tensors[f"hidden.{i}"] for i in range(len(self.ids)) if f"hidden.{i}" in tensors}


def together(model: LoadedEmbedder, texts: list[list[int]]) -> list[np.ndarray]:
    """Hidden states of texts in one batch."""
    lengths = np.array([len(ids) for ids in texts], np.int32)
    tokens = np.zeros((len(texts), lengths.max()), np.int64)
    for row, ids in zip(tokens, texts, strict=True):
        row[: len(ids)] = ids
    return [row[:length] for row, length in zip(model.session.encode(tokens, lengths), lengths, strict=True)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_are_those_of_the_reference(name, load):
    model, golden = load(ROOT / name), Golden(ROOT / name)
    assert [model.tokenizer.encode(text) for text in golden.texts] == golden.ids
    alone = [together(model, [ids])[0] for ids in golden.ids]
    for index, wanted in golden.hidden.items():
        np.testing.assert_allclose(alone[index], wanted, rtol=0, atol=RAW)
    for states in (alone, together(model, golden.ids)):
        vectors = np.stack([model.head.finish(pool(hidden, model.head.pooling)) for hidden in states])
        np.testing.assert_allclose(vectors, golden.raw, rtol=0, atol=RAW)
        np.testing.assert_allclose(unit(vectors), golden.normalised, rtol=0, atol=NORMALISED)
        assert (unit(vectors) * golden.normalised).sum(axis=1).min() >= COSINE
    model.session.close()


@pytest.mark.parametrize("name", FOLDERS[:3])
def test_the_older_config_spelling_means_the_same(name, load, tmp_path):
    for file in (ROOT / name).iterdir():
        if file.name not in ("config.json", "config.v4.json"):
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").symlink_to(ROOT / name / "config.v4.json")
    model, golden = load(tmp_path), Golden(ROOT / name)
    vectors = [model.head.finish(pool(hidden, model.head.pooling)) for hidden in together(model, golden.ids)]
    np.testing.assert_allclose(vectors, golden.raw, rtol=0, atol=RAW)


def test_weights_quantised_on_load_give_nearly_the_same_vectors(tmp_path):
    folder = ROOT / "golden/embed_bert"
    model = load_embedder(folder, LoadOptions(threads=2, cache_dir=tmp_path, quantize="q8_0"))
    golden = Golden(folder)
    vectors = unit(np.stack([pool(hidden, model.head.pooling) for hidden in together(model, golden.ids)]))
    assert (model.compute, model.quantization) == ("block8", "Q8_0")
    assert (vectors * golden.normalised).sum(axis=1).min() >= 0.99


def test_the_tokenizer_may_be_that_of_another_folder(tmp_path):
    folder = ROOT / "golden/embed_bert"
    own = load_embedder(folder, LoadOptions("float32", threads=1, cache_dir=tmp_path))
    other = load_embedder(
        folder, LoadOptions("float32", threads=1, cache_dir=tmp_path, tokenizer=ROOT / "golden/llama")
    )
    assert other.tokenizer.encode("Hello") != own.tokenizer.encode("Hello")
    with pytest.raises(NotFound, match="no tokenizer folder at"):
        load_embedder(folder, LoadOptions(threads=1, cache_dir=tmp_path, tokenizer=tmp_path / "none"))
    own.session.close()
    other.session.close()


def test_what_cannot_be_done_with_an_embedder_is_refused(tmp_path):
    graph, topology = ROOT / QUANTISED, tmp_path / "topology.yml"
    for options in ({"quantize": "q8_0"}, {"topology": topology}):
        with pytest.raises(InvalidRequest, match="stay as they were exported; leave quantize unset"):
            load_embedder(graph, LoadOptions(cache_dir=tmp_path, **options))
    with pytest.raises(InvalidModelFile, match="an X-LoRA needs a model that generates text"):
        load_embedder(ROOT / "golden/embed_bert", LoadOptions(cache_dir=tmp_path, xlora=tmp_path))


def test_a_graph_that_quantises_whole_batches_encodes_texts_alone(load):
    model, golden = load(ROOT / QUANTISED), Golden(ROOT / "golden-onnx/onnx_bert")
    assert model.session.alone
    vectors = unit(np.stack([pool(together(model, [ids])[0], model.head.pooling) for ids in golden.ids]))
    assert (vectors * golden.normalised).sum(axis=1).min() >= 0.98


def test_a_folder_that_says_nothing_takes_what_its_family_was_trained_with(load, tmp_path):
    for name, pooling in (("embed_bert", Pooling.MEAN), ("embed_qwen3", Pooling.LAST), ("embed_gemma", Pooling.MEAN)):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            (folder / file).symlink_to(ROOT / "golden" / name / file)
        config = json.loads((ROOT / "golden" / name / "config.json").read_text())
        architecture = {"Qwen3ForCausalLM": "Qwen3Model"}.get(config["architectures"][0], config["architectures"][0])
        (folder / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
        assert load(folder).head.pooling is pooling


# A second implementation of the encoders, for one text.


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * weight + bias


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"gelu": gelu, "gelu_new": tanh_gelu, "relu": lambda x: np.maximum(x, 0)}


def distance_bucket(distance: int) -> int:
    """That of key less query, for 32 buckets."""
    side = 16 if distance > 0 else 0
    away = abs(distance)
    if away < 8:
        return side + away
    return side + min(8 + int(np.log(np.float32(away / 8)) / np.log(16) * 8), 15)


class Case:
    """A family at some dimensions: random weights by the names that its checkpoints have, and what they compute."""

    def __init__(self, config: dict, parts: dict[str, str], prefix: str = "", first: int = 0, old_norms: bool = False):
        rng = np.random.default_rng(sum(map(ord, config["model_type"])))
        self.config, self.parts, self.prefix, self.first = config, parts, prefix, first
        self.hidden = config.get("hidden_size") or config["dim"]
        self.heads = config.get("num_attention_heads") or config["n_heads"]
        self.layers = config.get("num_hidden_layers") or config["n_layers"]
        self.wide = config.get("intermediate_size") or config["hidden_dim"]
        self.epsilon = config.get("layer_norm_eps", 1e-12)
        self.scale, self.shift = ("gamma", "beta") if old_norms else ("weight", "bias")
        self.weights: dict[str, np.ndarray] = {}

        def add(name: str, *shape: int, mean: float = 0.0) -> None:
            spread = 1.0 if "embeddings" in name else 2 / np.sqrt(shape[-1])
            self.weights[prefix + name] = (mean + rng.normal(size=shape) * spread).astype(np.float32)

        add("embeddings.word_embeddings.weight", config["vocab_size"], self.hidden)
        add("embeddings.position_embeddings.weight", config["max_position_embeddings"], self.hidden)
        if config.get("type_vocab_size"):
            add("embeddings.token_type_embeddings.weight", config["type_vocab_size"], self.hidden)
        if config["model_type"] == "mpnet":
            add("encoder.relative_attention_bias.weight", 32, self.heads)
        norms = ["embeddings.LayerNorm"]
        for layer in range(self.layers):
            names = {part: f"{parts['layers']}.{layer}.{name}" for part, name in parts.items()}
            for part in ("query", "key", "value", "mixed"):
                add(f"{names[part]}.weight", self.hidden, self.hidden)
                add(f"{names[part]}.bias", self.hidden)
            add(f"{names['up']}.weight", self.wide, self.hidden)
            add(f"{names['up']}.bias", self.wide)
            add(f"{names['down']}.weight", self.hidden, self.wide)
            add(f"{names['down']}.bias", self.hidden)
            norms += [names["mixed_norm"], names["down_norm"]]
        for name in norms:
            add(f"{name}.{self.scale}", self.hidden, mean=1.0)
            add(f"{name}.{self.shift}", self.hidden)

    def encode(self, ids: list[int]) -> np.ndarray:
        w = {name.removeprefix(self.prefix): value.astype(np.float64) for name, value in self.weights.items()}
        size, length = self.hidden // self.heads, len(ids)

        def linear(name: str, x: np.ndarray) -> np.ndarray:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        def normal(name: str, x: np.ndarray) -> np.ndarray:
            return norm(x, w[f"{name}.{self.scale}"], w[f"{name}.{self.shift}"], self.epsilon)

        def heads(x: np.ndarray) -> np.ndarray:
            return x.reshape(length, self.heads, size).transpose(1, 0, 2)

        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][self.first : self.first + length]
        if (types := w.get("embeddings.token_type_embeddings.weight")) is not None:
            x = x + types[0]
        x = normal("embeddings.LayerNorm", x)
        bias = 0.0
        if (table := w.get("encoder.relative_attention_bias.weight")) is not None:
            which = [[distance_bucket(key - query) for key in range(length)] for query in range(length)]
            bias = table[which].transpose(2, 0, 1)
        activation = ACTIVATIONS[self.config.get("hidden_act") or self.config.get("activation")]
        for layer in range(self.layers):
            names = {part: f"{self.parts['layers']}.{layer}.{name}" for part, name in self.parts.items()}
            query, key, value = (heads(linear(names[part], x)) for part in ("query", "key", "value"))
            mixed = softmax(query @ key.transpose(0, 2, 1) / np.sqrt(size) + bias) @ value
            mixed = mixed.transpose(1, 0, 2).reshape(length, self.hidden)
            x = normal(names["mixed_norm"], linear(names["mixed"], mixed) + x)
            x = normal(names["down_norm"], linear(names["down"], activation(linear(names["up"], x))) + x)
        return x


BERT = {
    "layers": "encoder.layer", "query": "attention.self.query", "key": "attention.self.key",
    "value": "attention.self.value", "mixed": "attention.output.dense", "mixed_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense", "down": "output.dense", "down_norm": "output.LayerNorm",
}  # fmt: skip
MPNET = BERT | {
    "query": "attention.attn.q", "key": "attention.attn.k", "value": "attention.attn.v", "mixed": "attention.attn.o",
    "mixed_norm": "attention.LayerNorm",
}  # fmt: skip
DISTILBERT = {
    "layers": "transformer.layer", "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin",
    "mixed": "attention.out_lin", "mixed_norm": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2",
    "down_norm": "output_layer_norm",
}  # fmt: skip
SMALL = {
    "model_type": "bert", "hidden_size": 60, "intermediate_size": 90, "num_hidden_layers": 2, "num_attention_heads": 5,
    "vocab_size": 101, "max_position_embeddings": 200, "type_vocab_size": 3, "layer_norm_eps": 1e-3,
    "hidden_act": "gelu", "architectures": ["BertModel"],
}  # fmt: skip
CASES = {
    "bert": Case(SMALL, BERT),
    "bert with a head": Case(SMALL | {"architectures": ["BertForMaskedLM"]}, BERT, "bert.", old_norms=True),
    "bert, relu": Case(SMALL | {"hidden_act": "relu", "num_attention_heads": 1}, BERT),
    "roberta": Case(SMALL | {"model_type": "roberta", "type_vocab_size": 1}, BERT, "roberta.", first=2),
    "xlm-roberta": Case(
        SMALL | {"model_type": "xlm-roberta", "pad_token_id": 4, "hidden_act": "gelu_new"}, BERT, first=5
    ),
    "mpnet": Case(SMALL | {"model_type": "mpnet", "type_vocab_size": 0, "num_attention_heads": 4}, MPNET, first=2),
    "distilbert": Case(
        {
            "model_type": "distilbert", "dim": 48, "hidden_dim": 112, "n_layers": 3, "n_heads": 6, "vocab_size": 77,
            "max_position_embeddings": 210, "activation": "gelu", "architectures": ["DistilBertModel"],
        },
        DISTILBERT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_encoders_of_other_dimensions_give_what_numpy_gives(name, load, tmp_path):
    case = CASES[name]
    save_file(case.weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(case.config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).symlink_to(ROOT / "golden" / "embed_bert" / file)
    model = load(tmp_path)
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, case.config["vocab_size"], length).tolist() for length in (180, 1, 37, 128, 2)]
    for ids, hidden in zip(texts, together(model, texts), strict=True):
        wanted = case.encode(ids)
        np.testing.assert_allclose(hidden, wanted, rtol=0, atol=RAW)
        assert np.array_equal(pool(hidden, Pooling.FIRST), hidden[0])
        np.testing.assert_allclose(pool(hidden, Pooling.MEAN), wanted.mean(axis=0), atol=RAW)
        np.testing.assert_allclose(pool(hidden, Pooling.LAST), wanted[len(ids) - 1], atol=RAW)
        np.testing.assert_allclose(pool(hidden, Pooling.MAX), wanted.max(axis=0), atol=RAW)
