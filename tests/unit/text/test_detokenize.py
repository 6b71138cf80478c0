from collections.abc import Callable
from pathlib import Path
from typing import Any

from narthex_server.text.assets import TextAssets
from narthex_server.text.detokenize import Detokenizer
from narthex_server.text.tokenizer import Tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

Read = Callable[[Path], dict[str, Any]]
Assets = Callable[[str], TextAssets]


def test_token_by_token_gives_the_same_text_as_all_at_once(folder: Path, golden: Read) -> None:
    tokenizer = TextAssets.from_folder(folder).tokenizer
    for case in golden(folder)["tokenizer"]:
        stream = Detokenizer(tokenizer)
        pieces = [stream.feed((index,)) for index in case["ids"]]
        assert "".join(pieces) + stream.finish() == case["decoded_skip_special"]
        assert not any("\ufffd" in piece for piece in pieces)
        shown = Detokenizer(tokenizer, keep=tokenizer.special_ids)
        assert shown.feed(case["ids_no_special"]) + shown.finish() == case["decoded_no_special"]


def test_a_character_waits_for_its_last_byte(assets: Assets) -> None:
    for name in ("qwen3", "mistral_swa"):
        tokenizer = assets(name).tokenizer
        ids = tokenizer.encode("🙂", add_special=False)
        stream = Detokenizer(tokenizer)
        assert [stream.feed((index,)) for index in ids][-1] == "🙂"
        cut = Detokenizer(tokenizer)
        assert cut.feed(ids[:-1]) == ""
        assert cut.finish() == "\ufffd"


def test_bytes_that_are_no_character_do_not_hold_up_what_follows(assets: Assets) -> None:
    tokenizer = assets("mistral_swa").tokenizer
    (lone,) = tokenizer.ids_of(["<0xE2>"])
    stream = Detokenizer(tokenizer)
    assert stream.feed([lone, *tokenizer.encode("ok", add_special=False)]).startswith("\ufffd")


def test_only_a_text_of_its_own_loses_the_space_in_front(assets: Assets) -> None:
    tokenizer = assets("mistral_swa").tokenizer
    ids = tokenizer.encode("Hello", add_special=False)
    assert Detokenizer(tokenizer).feed(ids) == "Hello"
    assert Detokenizer(tokenizer, starts_text=False).feed(ids) == " Hello"


def test_kept_special_tokens_are_shown_and_others_are_not(assets: Assets) -> None:
    tokenizer = assets("mistral_swa").tokenizer
    ids = tokenizer.encode("<s>[TOOL_CALLS]x</s>", add_special=False)
    kept = tokenizer.ids_of(["[TOOL_CALLS]"])
    assert Detokenizer(tokenizer, kept).feed(ids).startswith("[TOOL_CALLS]")
    assert "<s>" not in Detokenizer(tokenizer, kept).feed(ids)


def test_padding_beyond_the_vocabulary_has_no_text(assets: Assets) -> None:
    tokenizer = assets("qwen2").tokenizer
    assert Detokenizer(tokenizer).feed([tokenizer.size + 3]) == ""


def test_decoders_without_bytes_of_their_own_stream_by_window() -> None:
    words = ["he", "##llo", "wor", "##ld", "!"]
    backend = Backend(
        models.WordPiece({word: index for index, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    tokenizer = Tokenizer(backend, None, None)
    ids = [*range(1, 6)] * 3
    stream = Detokenizer(tokenizer)
    assert "".join(stream.feed((index,)) for index in ids) == tokenizer.decode(ids)
