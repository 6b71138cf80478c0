"""The tokenizer that a GGUF file carries in its metadata (keys `tokenizer.ggml.*`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from narthex_server.errors import InvalidModelFile
from narthex_server.text.splitters import Splitter, splitter

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # tokenizer.ggml.token_type
_SPACE = "\u2581"
_LONGEST_PIECE, _MOST_CHARACTERS = 1024, 1 << 22


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
    for key, value in metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and not isinstance(value, int):
            raise InvalidModelFile(f"the GGUF file's {key} is {value!r:.80}, not a number")
    kind = metadata.get("tokenizer.ggml.model")
    first, last, add_first, add_last = "bos", "eos", True, False
    match kind:
        case "gpt2":
            cuts = splitter(metadata.get("tokenizer.ggml.pre") or "default")
            backend, add_first = _byte_level(metadata, tokens, cuts), cuts.add_bos
        case "llama":
            backend = _sentence_piece(metadata, tokens)
        case "t5":
            backend, add_first, add_last = _unigram(metadata, tokens), False, True
        case "bert":
            backend, last, add_last = _word_piece(tokens), "seperator", True
        case _:
            known = "gpt2, llama, t5 and bert"
            raise InvalidModelFile(f"the GGUF file's tokenizer is of kind {kind!r:.80}; known are {known}")
    _mark_added(backend, metadata, tokens)
    bos, eos = (_id(metadata, key, len(tokens)) for key in (first, last))
    if kind == "bert":
        bos, eos = bos or backend.token_to_id("[CLS]"), eos or backend.token_to_id("[SEP]")
    adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", add_first))
    adds_eos = bool(metadata.get(f"tokenizer.ggml.add_{'sep' if kind == 'bert' else 'eos'}_token", add_last))
    return Vocabulary(backend, bos, eos, adds_bos, adds_eos)


def _id(metadata: Mapping[str, Any], name: str, size: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return int(value) if value is not None and 0 <= int(value) < size else None


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], cuts: Splitter) -> tokenizers.Tokenizer:
    merges = []
    for merge in metadata.get("tokenizer.ggml.merges") or ():
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, ignore_merges=cuts.whole_words
    )
    backend = tokenizers.Tokenizer(model)
    if cuts.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in cuts.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _scores(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Sequence[float]:
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise InvalidModelFile("the GGUF file's tokenizer has no score for every token (tokenizer.ggml.scores)")
    if not all(isinstance(score, float | int) for score in scores):
        raise InvalidModelFile("the GGUF file's tokenizer has scores that are no numbers (tokenizer.ggml.scores)")
    return list(scores)


def _sentence_piece(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """SentencePiece's BPE: the pair whose joined piece scores highest joins first; unknown characters become bytes."""
    scores = _scores(metadata, tokens)
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if (characters := sum(map(len, tokens))) > _MOST_CHARACTERS:
        raise InvalidModelFile(f"the GGUF file's tokens have {characters} characters; allowed are {_MOST_CHARACTERS}")
    joins = []
    for token, index in vocabulary.items():
        if kinds[index] in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            continue
        if len(token) > _LONGEST_PIECE:
            raise InvalidModelFile(
                f"token {index} of the GGUF file has {len(token)} characters; allowed are {_LONGEST_PIECE}"
            )
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
        [*([normalizers.Prepend(_SPACE)] if prefix else []), normalizers.Replace(" ", _SPACE)]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return backend


def _unigram(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """SentencePiece's unigram model: of all ways to cut a text, the one whose pieces score highest together."""
    kinds = metadata.get("tokenizer.ggml.token_type") or ()
    scored = [(token, float(score)) for token, score in zip(tokens, _scores(metadata, tokens), strict=True)]
    unknown = _id(metadata, "unknown", len(tokens))
    backend = tokenizers.Tokenizer(models.Unigram(scored, unknown, byte_fallback=_BYTE in kinds))
    steps: list[normalizers.Normalizer] = []
    if charsmap := metadata.get("tokenizer.ggml.precompiled_charsmap"):
        steps.append(normalizers.Precompiled(bytes(charsmap)))
    if metadata.get("tokenizer.ggml.remove_extra_whitespaces"):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if metadata.get("tokenizer.ggml.add_space_prefix", True) else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return backend


def _word_piece(tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """BERT's longest pieces of lower-case words; files mark what begins a word, not what continues one."""
    vocabulary = {_word_piece_token(token): index for index, token in enumerate(tokens)}
    if "[UNK]" not in vocabulary:
        raise InvalidModelFile("the GGUF file's tokenizer has no token [UNK]")
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _word_piece_token(token: str) -> str:
    if token.startswith(_SPACE):
        return token[1:]
    return token if token.startswith("[") and token.endswith("]") else f"##{token}"


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
