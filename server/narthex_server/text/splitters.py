"""How `tokenizer.ggml.pre` cuts text into words before byte-level merges, as llama.cpp does."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from narthex_server.errors import InvalidModelFile

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
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
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
class Splitter:
    """Patterns that split one after the other; the normaliser is the original model's."""

    patterns: tuple[str, ...]
    nfc: bool = False
    whole_words: bool = False  # a word that is a token as it stands is not built by merges
    add_bos: bool = False


_LLAMA3_SPLITTER = Splitter((_LLAMA3,), whole_words=True, add_bos=True)
_QWEN2_SPLITTER = Splitter((_QWEN2,), nfc=True)
_GPT2_SPLITTER = Splitter((_GPT2,))
_DIGIT_SPLITTER = Splitter((_DIGIT, _GPT2))

_SPLITTERS: Mapping[str, Splitter] = MappingProxyType(
    {
        "default": Splitter(_DEFAULT),
        **dict.fromkeys(
            ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2", "pixtral", "midm-2.0"), _LLAMA3_SPLITTER
        ),
        **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), Splitter((_LLAMA3,))),
        **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2_SPLITTER),
        "stablelm2": Splitter((_QWEN2,)),
        **dict.fromkeys(
            ("gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "mellum", "exaone4", "a.x-4.0"), _GPT2_SPLITTER
        ),
        **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGIT_SPLITTER),
        **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), Splitter((_GPT4O,))),
        "falcon": Splitter((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _DIGITS3)),
        "tekken": Splitter((_TEKKEN,), whole_words=True, add_bos=True),
        "deepseek-v3": Splitter(_DEEPSEEK3),
    }
)


def splitter(name: str) -> Splitter:
    """The splitter of a name. Errors: InvalidModelFile."""
    if name not in _SPLITTERS:
        known = ", ".join(sorted(_SPLITTERS))
        raise InvalidModelFile(f"the GGUF file's pre-tokenizer {name!r:.80} is not known; known are {known}")
    return _SPLITTERS[name]
