import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.text.assets import TextAssets
from narthex_server.text.tokenizer import Tokenizer

Read = Callable[[Path], dict[str, Any]]


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


def test_sentencepiece_tokenizer_from_gguf_agrees_with_its_folder(golden: Read) -> None:
    folder = Path(__file__).parents[2] / "golden" / "mistral_swa"
    reference = TextAssets.from_folder(folder).tokenizer
    ours = Tokenizer.from_gguf(sentencepiece_metadata(folder))
    for case in golden(folder)["tokenizer"]:
        assert ours.encode(case["text"]) == case["ids"], case["text"]
        assert ours.decode(case["ids"]) == reference.decode(case["ids"])


def sentencepiece_metadata(folder: Path) -> dict[str, Any]:
    """The folder's tokenizer as llama.cpp's converter writes one: scores fall in the order of the merges."""
    source = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = source["model"]["vocab"]
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
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


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
