import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.text.assets import TextAssets
from narthex_server.text.tokenizer import Tokenizer

Read = Callable[[Path], dict[str, Any]]
GOLDEN = Path(__file__).parents[2] / "golden"


def test_folder_tokenizer_agrees_with_the_reference(folder: Path, golden: Read) -> None:
    tokenizer = TextAssets.from_folder(folder).tokenizer
    for case in golden(folder)["tokenizer"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
        assert tokenizer.encode(case["text"], add_special=False) == case["ids_no_special"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded_skip_special"]
        assert tokenizer.decode(case["ids_no_special"], skip_special=False) == case["decoded_no_special"]


def test_gguf_tokenizer_agrees_with_the_folder_it_was_made_from(
    gguf_folder: Path, golden: Read, metadata: Read
) -> None:
    ours = TextAssets.from_gguf(metadata(gguf_folder))
    reference = TextAssets.from_folder(gguf_folder / "hf")
    for case in golden(gguf_folder.parent / "qwen3")["tokenizer"]:
        assert ours.tokenizer.encode(case["text"]) == reference.tokenizer.encode(case["text"]), case["text"]
    assert (ours.tokenizer.eos, ours.eos_ids) == (reference.tokenizer.eos, reference.eos_ids)
    for case in golden(gguf_folder)["chat"]:
        assert ours.tokenizer.encode(case["rendered"], add_special=False) == case["input_ids"]


@pytest.mark.parametrize("name", ["mistral_swa", "mixtral", "phi3", "phi3_longrope", "gemma2", "gemma3"])
def test_sentencepiece_tokenizer_from_gguf_agrees_with_its_folder(golden: Read, name: str) -> None:
    folder = GOLDEN / name
    reference = TextAssets.from_folder(folder).tokenizer
    ours = Tokenizer.from_gguf(sentencepiece_metadata(folder, reference))
    for case in golden(folder)["tokenizer"]:
        assert ours.encode(case["text"]) == case["ids"], case["text"]
        assert ours.encode(case["text"], add_special=False) == case["ids_no_special"], case["text"]
        assert ours.decode(case["ids"]) == reference.decode(case["ids"])
    assert ours.strips_first_space == reference.strips_first_space


def sentencepiece_metadata(folder: Path, reference: Tokenizer) -> dict[str, Any]:
    """The folder's tokenizer as llama.cpp's converter writes one: scores fall in the order of the merges."""
    source = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = dict(source["model"]["vocab"])
    vocabulary |= {token["content"]: token["id"] for token in source["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in source["model"]["merges"]]
    rank = {left + right: -float(index) for index, (left, right) in reversed(list(enumerate(merges)))}
    special = {token["content"] for token in source["added_tokens"]}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [rank.get(token, -1e9) for token in tokens],
        "tokenizer.ggml.token_type": [
            3 if token in special else 6 if token.startswith("<0x") else 1 for token in tokens
        ],
        "tokenizer.ggml.bos_token_id": reference.bos,
        "tokenizer.ggml.eos_token_id": reference.eos,
        "tokenizer.ggml.unknown_token_id": vocabulary[source["model"]["unk_token"]],
        "tokenizer.ggml.add_bos_token": bool(reference.encode("")),
        "tokenizer.ggml.add_space_prefix": "Prepend" in json.dumps(source["normalizer"]),
    }


@pytest.mark.parametrize(
    ("name", "pre"),
    [
        ("llama", "llama-bpe"), ("smollm3", "smaug-bpe"), ("lfm2", "lfm2"), ("qwen2", "qwen2"), ("qwen3", "qwen2"),
        ("qwen3_moe", "qwen2"), ("granite", "gpt-2"),
    ],
)  # fmt: skip
def test_byte_level_tokenizer_from_gguf_agrees_with_its_folder(golden: Read, name: str, pre: str) -> None:
    folder = GOLDEN / name
    reference = TextAssets.from_folder(folder).tokenizer
    source = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = dict(source["model"]["vocab"]) | {token["content"]: token["id"] for token in source["added_tokens"]}
    special = {token["content"]: 3 if token["special"] else 4 for token in source["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    ours = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [special.get(token, 1) for token in tokens],
            "tokenizer.ggml.merges": [
                merge if isinstance(merge, str) else " ".join(merge) for merge in source["model"]["merges"]
            ],
            "tokenizer.ggml.eos_token_id": reference.eos,
            "tokenizer.ggml.add_bos_token": bool(reference.encode("")),
        }
        | ({} if reference.bos is None else {"tokenizer.ggml.bos_token_id": reference.bos})
    )
    for case in golden(folder)["tokenizer"]:
        assert ours.encode(case["text"]) == case["ids"], case["text"]
        assert ours.decode(case["ids_no_special"], skip_special=False) == case["decoded_no_special"]


def test_o200k_words_are_cut_as_its_authors_cut_them() -> None:
    tokens = [*(chr(code) for code in range(33, 127)), "\u0120"]
    tokenizer = Tokenizer.from_gguf(
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-4o", "tokenizer.ggml.tokens": tokens}
    )
    words = tokenizer._backend.pre_tokenizer.pre_tokenize_str("HTTPServer's x12345 camelCase //")
    assert [word for word, _ in words] == [
        "HTTPServer's", "\u0120x", "123", "45", "\u0120camel", "Case", "\u0120//"
    ]  # fmt: skip


def test_word_piece_tokenizer_from_gguf_agrees_with_its_folder(golden: Read) -> None:
    folder = GOLDEN / "embed_bert"
    reference = TextAssets.from_folder(folder).tokenizer
    vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    ours = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": [
                token if token in special else token[2:] if token.startswith("##") else f"\u2581{token}"
                for token in tokens
            ],
            "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
            "tokenizer.ggml.bos_token_id": vocabulary["[CLS]"],
            "tokenizer.ggml.seperator_token_id": vocabulary["[SEP]"],
        }
    )
    for case in golden(folder)["tokenizer"]:
        assert ours.encode(case["text"]) == case["ids"], case["text"]
        assert ours.decode(case["ids"]) == reference.decode(case["ids"])


@pytest.mark.parametrize("prefix", [True, False])
def test_unigram_tokenizer_from_gguf_agrees_with_what_was_trained(golden: Read, prefix: bool) -> None:
    cases = [case["text"] for case in golden(GOLDEN / "gemma2")["tokenizer"]]
    trained = tokenizers.Tokenizer(tokenizers.models.Unigram())
    trained.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    scheme = "always" if prefix else "never"
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trained.decoder = tokenizers.decoders.Metaspace(prepend_scheme=scheme)
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=200, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator([case for case in cases if case.isascii()] * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    ours = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": [token for token, _ in model["vocab"]],
            "tokenizer.ggml.scores": [score for _, score in model["vocab"]],
            "tokenizer.ggml.token_type": [3, 3, 2] + [1] * (len(model["vocab"]) - 3),
            "tokenizer.ggml.unknown_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.add_space_prefix": prefix,
            "tokenizer.ggml.remove_extra_whitespaces": True,
        }
    )
    for text in cases:
        text = " ".join(text.split(" ")).strip()
        assert ours.encode(text) == [*trained.encode(text).ids, 1], text
        assert ours.decode(ours.encode(text)) == trained.decode(trained.encode(text).ids)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"scores": None}, "no score for every token"),
        ({"scores": [1.0]}, "no score for every token"),
        ({"scores": ["x", "y"]}, "scores that are no numbers"),
        ({"tokens": [1, 2]}, "broken"),
        ({"tokens": 7}, "broken"),
        ({"tokens": ["a" * 5000, "b"]}, "token 0 of the GGUF file has 5000 characters"),
        ({"tokens": ["a" * 1000 + str(index) for index in range(5000)], "scores": [0.0] * 5000}, "5018890 characters"),
        ({"token_type": ["x"]}, "broken"),
        ({"unknown_token_id": 99}, "broken"),
        ({"unknown_token_id": "x"}, "unknown_token_id is 'x', not a number"),
        ({"eot_token_id": [1]}, r"eot_token_id is \[1\], not a number"),
        ({"model": 7}, "of kind 7"),
        ({"model": "gpt2", "merges": [1]}, "broken"),
        ({"model": "gpt2", "pre": 7}, "pre-tokenizer 7 is not known"),
        ({"model": "t5", "precompiled_charsmap": [1, 2, 3]}, "broken"),
        ({"model": "t5", "precompiled_charsmap": [255] * 64}, "broken"),
        ({"model": "t5", "precompiled_charsmap": ["x"]}, "broken"),
        ({"model": "bert"}, r"no token \[UNK\]"),
    ],
)
def test_tokenizers_of_the_wrong_types_are_refused(changed: dict[str, Any], complaint: str) -> None:
    usual = {"model": "llama", "tokens": ["a", "b"], "scores": [0.0, 0.0], "unknown_token_id": 0}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in (usual | changed).items() if value is not None}
    with pytest.raises(InvalidModelFile, match=complaint):
        Tokenizer.from_gguf(metadata)


def test_an_explicit_add_bos_token_wins_over_tokenizer_json(tmp_path: Path, folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    plain = Tokenizer.from_folder(folder, {**config, "add_bos_token": False})
    assert plain.encode("Hello") == plain.encode("Hello", add_special=False)
    if plain.bos is not None:
        framed = Tokenizer.from_folder(folder, {**config, "add_bos_token": True})
        assert framed.encode("Hello") == [plain.bos, *plain.encode("Hello")]


def test_half_a_surrogate_pair_is_replaced(assets: Callable[[str], TextAssets]) -> None:
    tokenizer = assets("qwen3").tokenizer
    assert tokenizer.encode("a\ud83d") == tokenizer.encode("a?")


def test_unreadable_tokenizers_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path, {})
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidModelFile, match="cannot be read"):
        Tokenizer.from_folder(tmp_path, {})
    with pytest.raises(InvalidModelFile, match="'surprise' is not known"):
        Tokenizer.from_gguf(
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "surprise", "tokenizer.ggml.tokens": ["a"]}
        )
    with pytest.raises(InvalidModelFile, match="kind 'rwkv'"):
        Tokenizer.from_gguf({"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": ["a"]})
    with pytest.raises(InvalidModelFile, match="no tokenizer"):
        Tokenizer.from_gguf({})


def test_broken_gguf_merges_are_refused() -> None:
    with pytest.raises(InvalidModelFile, match="merges"):
        Tokenizer.from_gguf(
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.tokens": ["a", "b"],
                "tokenizer.ggml.merges": ["a z"],
            }
        )


def test_a_token_with_an_absurd_number_is_refused(tmp_path: Path) -> None:
    source = json.loads((GOLDEN / "llama" / "tokenizer.json").read_text("utf-8"))
    source["model"]["vocab"]["far away"] = 1 << 31
    (tmp_path / "tokenizer.json").write_text(json.dumps(source), "utf-8")
    with pytest.raises(InvalidModelFile, match="a token has the number 2147483648; at most 16777215"):
        Tokenizer.from_folder(tmp_path, {})


def test_a_tokenizer_larger_than_any_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidModelFile, match="1099511627776 bytes of tokenizer"):
        Tokenizer.from_folder(tmp_path, {})


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 20}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 8}},
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "a"}},
        {"decoder": {"type": "Sequence", "decoders": [REPLACE] * 3}},
        {"decoder": REPLACE | {"content": "a" * 1000}},
    ],
)
def test_replacements_that_multiply_a_text_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    source = json.loads((GOLDEN / "llama" / "tokenizer.json").read_text("utf-8")) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(source), "utf-8")
    with pytest.raises(InvalidModelFile, match=r"its replacements make texts (inf|\d.*) times as long"):
        Tokenizer.from_folder(tmp_path, {})


def test_padding_of_the_file_is_never_made(tmp_path: Path) -> None:
    padding = {
        "strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "x",
    }  # fmt: skip
    source = json.loads((GOLDEN / "llama" / "tokenizer.json").read_text("utf-8")) | {"padding": padding}
    (tmp_path / "tokenizer.json").write_text(json.dumps(source), "utf-8")
    assert len(Tokenizer.from_folder(tmp_path, {}).encode("hello")) < 10


def test_a_text_that_breaks_the_tokenizer_is_refused(tmp_path: Path) -> None:
    splitter = {"type": "Split", "pattern": {"Regex": "(a*)*(a*)*(a*)*$"}, "behavior": "Isolated", "invert": False}
    source = json.loads((GOLDEN / "llama" / "tokenizer.json").read_text("utf-8")) | {"pre_tokenizer": splitter}
    (tmp_path / "tokenizer.json").write_text(json.dumps(source), "utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path, {})
    with pytest.raises(InvalidRequest, match="the model's tokenizer gives up on this text"):
        tokenizer.encode("a" * 30 + "b")


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral_swa", "gemma3", "phi3"])
def test_the_bytes_of_tokens_make_up_the_text(assets: Callable[[str], TextAssets], name: str) -> None:
    tokenizer = assets(name).tokenizer
    text = "Zürich 🙂 日本\n<|x|>  end"
    ids = tokenizer.encode(text, add_special=False)
    pieces = [tokenizer.piece(index) for index in ids]
    spelled = b"".join(pieces).decode()
    assert (spelled.removeprefix(" ") if tokenizer.strips_first_space else spelled) == text
    assert any(0x80 <= piece[0] < 0xC0 for piece in pieces if piece)  # some are parts of a character
    assert tokenizer.piece(10**6) == b""


@pytest.mark.parametrize("name", ["llama", "mistral_swa"])
def test_tokens_are_found_by_what_they_hold(assets: Callable[[str], TextAssets], name: str) -> None:
    tokenizer = assets(name).tokenizer
    for text in ("\n", ":", '"', "e", "th", "ing"):
        wanted = {index for index in range(tokenizer.size) if text.encode() in tokenizer.piece(index)}
        assert tokenizer.ids_with(text) == wanted != set()
    phrase = "No token is as long as this: it has its last one."
    assert tokenizer.ids_with(phrase) == {tokenizer.encode(phrase, add_special=False)[-1]}


def test_tokens_of_wordpieces_are_spelled_as_they_decode() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "say": 1, "##ing": 2}, unk_token="[UNK]"))
    backend.decoder = tokenizers.decoders.WordPiece()
    tokenizer = Tokenizer(backend, None, None)
    assert tokenizer.pieces is None and tokenizer.piece(1) == b"say"
    assert 1 in tokenizer.ids_with("ay")
