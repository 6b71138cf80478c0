"""The tokenizer that a GGUF file carries in its metadata (keys `tokenizer.ggml.*`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from narthex_server.errors import InvalidModelFile

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # tokenizer.ggml.token_type

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGIT, _DIGITS3 = r"\p{N}", r"[0-9][0-9][0-9]"
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"
_DEFAULT = (_PUNCTUATION, _GPT2, r"\p{N}+", _DIGITS3)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@dataclass(frozen=True, slots=True)
class _Splitter:
    """How `tokenizer.ggml.pre` cuts text into words, as llama.cpp does; the normaliser is the original model's."""

    patterns: tuple[str, ...]
    nfc: bool = False
    whole_words: bool = False  # a word that is a token as it stands is not built by merges
    add_bos: bool = False


_LLAMA3_SPLITTER = _Splitter((_LLAMA3,), whole_words=True, add_bos=True)
_QWEN2_SPLITTER = _Splitter((_QWEN2,), nfc=True)
_GPT2_SPLITTER = _Splitter((_GPT2,))
_DIGIT_SPLITTER = _Splitter((_DIGIT, _GPT2))

_SPLITTERS: Mapping[str, _Splitter] = {
    "default": _Splitter(_DEFAULT),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"), _LLAMA3_SPLITTER),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _Splitter((_LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2_SPLITTER),
    "stablelm2": _Splitter((_QWEN2,)),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat"), _GPT2_SPLITTER),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGIT_SPLITTER),
    "falcon": _Splitter((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _DIGITS3)),
    "tekken": _Splitter((_TEKKEN,), whole_words=True, add_bos=True),
    "deepseek-v3": _Splitter(_DEEPSEEK3),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer with its BOS and EOS ids, and whether it puts them around a text."""

    backend: tokenizers.Tokenizer
    bos: int | None
    eos: int | None
    adds_bos: bool
    adds_eos: bool


def read(metadata: Mapping[str, Any]) -> Vocabulary:
    """Builds the tokenizer. Errors: InvalidModelFile for missing keys and for kinds of tokenizer that are not known."""
    tokens: Sequence[str] | None = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise InvalidModelFile("the GGUF file has no tokenizer (tokenizer.ggml.tokens is missing)")
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        splitter = _splitter(metadata.get("tokenizer.ggml.pre") or "default")
        backend, add_bos = _byte_level(metadata, tokens, splitter), splitter.add_bos
    elif kind == "llama":
        backend, add_bos = _sentence_piece(metadata, tokens), True
    else:
        raise InvalidModelFile(f"the GGUF file's tokenizer is of kind {kind!r}; known are gpt2 and llama")
    _mark_added(backend, metadata, tokens)
    bos, eos = (_id(metadata, key, len(tokens)) for key in ("bos", "eos"))
    adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos))
    adds_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    return Vocabulary(backend, bos, eos, adds_bos, adds_eos)


def _id(metadata: Mapping[str, Any], name: str, size: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return int(value) if value is not None and 0 <= int(value) < size else None


def _splitter(name: str) -> _Splitter:
    if name not in _SPLITTERS:
        known = ", ".join(sorted(_SPLITTERS))
        raise InvalidModelFile(f"the GGUF file's pre-tokenizer {name!r} is not known; known are {known}")
    return _SPLITTERS[name]


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], splitter: _Splitter) -> tokenizers.Tokenizer:
    merges = []
    for merge in metadata.get("tokenizer.ggml.merges") or ():
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, ignore_merges=splitter.whole_words
    )
    backend = tokenizers.Tokenizer(model)
    if splitter.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in splitter.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """SentencePiece's BPE: the pair whose joined piece scores highest joins first; unknown characters become bytes."""
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise InvalidModelFile("the GGUF file's tokenizer has no score for every token (tokenizer.ggml.scores)")
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    joins = []
    for token, index in vocabulary.items():
        if kinds[index] in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            continue
        for cut in range(1, len(token)):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                joins.append((-scores[index], left, right))
    joins.sort()
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    model = models.BPE(
        vocab=vocabulary,
        merges=[(tokens[left], tokens[right]) for _, left, right in joins],
        unk_token=tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    backend.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("\u2581")] if prefix else []), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return backend


def _mark_added(backend: tokenizers.Tokenizer, metadata: Mapping[str, Any], tokens: Sequence[str]) -> None:
    kinds = metadata.get("tokenizer.ggml.token_type") or ()
    added = {
        special: [
            AddedToken(token, normalized=False, special=special)
            for token, kind in zip(tokens, kinds, strict=False)
            if token and kind in wanted
        ]
        for special, wanted in ((True, (_UNKNOWN, _CONTROL)), (False, (_USER_DEFINED,)))
    }
    backend.add_special_tokens(added[True])
    backend.add_tokens(added[False])
