"""Text to token ids and back."""

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers.processors import TemplateProcessing

from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.text import gguf_tokenizer
from narthex_server.text.pieces import piece_bytes

_LARGEST_FILE = 1 << 28
_LARGEST_ID = (1 << 24) - 1
_MOST_GROWTH = 64


class Tokenizer:
    """A model's tokenizer; `bos` and `eos` are ids or None, `special_ids` are never shown as text."""

    def __init__(self, backend: tokenizers.Tokenizer, bos: int | None, eos: int | None) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos = bos
        self.eos = eos
        self.special_ids = frozenset(
            index for index, token in backend.get_added_tokens_decoder().items() if token.special
        )
        pieces, self.strips_first_space = piece_bytes(backend)
        self.pieces = pieces

    @classmethod
    def from_folder(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """From tokenizer.json and the content of tokenizer_config.json. Errors: InvalidModelFile."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidModelFile(f"{folder} has no tokenizer.json; save the tokenizer in the fast format")
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise InvalidModelFile(f"{path}: {size} bytes of tokenizer; at most {_LARGEST_FILE} are read")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for every kind of broken file
            raise InvalidModelFile(f"{path} cannot be read: {error}") from error
        backend.no_truncation()
        backend.no_padding()
        _check_growth(path, backend)
        if (largest := max(backend.get_vocab().values(), default=0)) > _LARGEST_ID:
            raise InvalidModelFile(f"{path}: a token has the number {largest}; at most {_LARGEST_ID} is possible")
        try:
            _add_missing(backend, config.get("added_tokens_decoder") or {})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            described = f"{folder / 'tokenizer_config.json'}: added_tokens_decoder"
            raise InvalidModelFile(f"{described} does not describe tokens by their numbers: {error!r}") from error
        bos, eos = (_token_id(backend, config.get(key)) for key in ("bos_token", "eos_token"))
        _follow_flags(backend, config, bos, eos)
        return cls(backend, bos, eos)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Self:
        """From a GGUF file's metadata. Errors: InvalidModelFile."""
        try:
            vocabulary = gguf_tokenizer.read(metadata)
        except InvalidModelFile:
            raise
        except Exception as error:  # as above; merges of tokens that do not exist, scores that are no numbers, …
            raise InvalidModelFile(f"the GGUF file's tokenizer (tokens, merges, types) is broken: {error}") from error
        backend, bos, eos = vocabulary.backend, vocabulary.bos, vocabulary.eos
        _frame(backend, bos if vocabulary.adds_bos else None, eos if vocabulary.adds_eos else None)
        return cls(backend, bos, eos)

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of `text`; special tokens written in it count as such; `add_special` adds BOS and the like."""
        try:
            return self._encode(text, add_special)
        except TypeError:  # half a surrogate pair, which JSON allows and UTF-8 does not
            return self._encode(text.encode("utf-8", "replace").decode(), add_special)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # the library's, which is no Exception
                raise
            raise InvalidRequest(f"the model's tokenizer gives up on this text: {error}", reason="TOKENIZER") from error

    def _encode(self, text: str, add_special: bool) -> list[int]:
        # The library's `encode` holds the interpreter's lock all the while, its batch calls do not.
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special)
        return list(encoding.ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of `ids`, all at once."""
        return str(self._backend.decode(ids, skip_special_tokens=skip_special))

    def token(self, index: int) -> str | None:
        """The token as the vocabulary spells it."""
        text: str | None = self._backend.id_to_token(index)
        return text

    def ids_of(self, tokens: Iterable[str]) -> frozenset[int]:
        """The ids of those tokens that the vocabulary has."""
        found = (self._backend.token_to_id(token) for token in tokens)
        return frozenset(index for index in found if index is not None)

    def piece(self, index: int) -> bytes:
        """The bytes of one token, which may be a part of a character; none of an id beyond the vocabulary."""
        if self.pieces is None:
            return self.decode((index,), skip_special=False).encode()
        return self.pieces[index] if index < len(self.pieces) else b""

    def ids_with(self, text: str) -> frozenset[int]:
        """The tokens that `text` is a part of; where there is none, the last of those that it takes."""
        whole, ends = self._spelled
        wanted = text.encode("utf-8", "replace")
        found, at = [], whole.find(wanted)
        while at >= 0:
            index = bisect_right(ends, at)
            if at + len(wanted) <= ends[index]:
                found.append(index)
                at = whole.find(wanted, ends[index])
            else:
                at = whole.find(wanted, at + 1)
        return frozenset(found or self.encode(text, add_special=False)[-1:])

    @cached_property
    def _spelled(self) -> tuple[bytes, list[int]]:
        """The bytes of all tokens in a row, and where each ends."""
        pieces = self.pieces or [self.piece(index) for index in range(self.size)]
        return b"".join(pieces), list(accumulate(map(len, pieces)))

    @property
    def size(self) -> int:
        """Tokens in the vocabulary, added ones included; a model's logits may be wider."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))


def _check_growth(path: Path, backend: tokenizers.Tokenizer) -> None:
    """Refuse replacements that make a text many times as long: one after the other, they fill any memory."""
    for part in (backend.normalizer, backend.decoder):
        state = json.loads(part.__getstate__()) if part is not None else {}
        steps = [step for name in ("normalizers", "decoders") for step in state.get(name, ())] or [state]
        growth = 1.0
        for step in steps:
            if step.get("type") == "Replace":
                found = step["pattern"].get("String")
                growth *= max(1.0, len(step["content"]) / len(found)) if found else max(1, len(step["content"]))
                growth = growth if found != "" else math.inf
        if growth > _MOST_GROWTH:
            raise InvalidModelFile(f"{path}: its replacements make texts {growth:g} times as long")


def _token_id(backend: tokenizers.Tokenizer, value: object) -> int | None:
    text = value.get("content") if isinstance(value, dict) else value
    return backend.token_to_id(text) if isinstance(text, str) else None


def _add_missing(backend: tokenizers.Tokenizer, declared: Mapping[str, Mapping[str, Any]]) -> None:
    """Tokens that only tokenizer_config.json knows, where the next free ids are theirs."""
    for index, entry in sorted((int(key), entry) for key, entry in declared.items()):
        if backend.id_to_token(index) is None and index == backend.get_vocab_size(with_added_tokens=True):
            names = ("single_word", "lstrip", "rstrip", "normalized", "special")
            flags = {name: bool(entry.get(name)) for name in names}
            backend.add_tokens([tokenizers.AddedToken(entry["content"], **flags)])


def _follow_flags(backend: tokenizers.Tokenizer, config: Mapping[str, Any], bos: int | None, eos: int | None) -> None:
    """An explicit add_bos_token or add_eos_token wins over what tokenizer.json does."""
    added = backend.encode("").ids
    starts, ends = bos in added, eos in added and (eos != bos or len(added) > 1)
    want_bos = config.get("add_bos_token", starts) and bos is not None
    want_eos = config.get("add_eos_token", ends) and eos is not None
    if (want_bos, want_eos) != (starts, ends):
        _frame(backend, bos if want_bos else None, eos if want_eos else None)


def _frame(backend: tokenizers.Tokenizer, bos: int | None, eos: int | None) -> None:
    """Makes `backend` put these tokens around every encoded text."""
    first, last = ([] if index is None else [(backend.id_to_token(index), index)] for index in (bos, eos))
    parts = [*(token for token, _ in first), "$A", *(token for token, _ in last)]
    backend.post_processor = TemplateProcessing(single=parts, special_tokens=list({*first, *last}))
