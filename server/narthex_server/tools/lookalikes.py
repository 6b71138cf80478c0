"""Names that look the same and are not."""

# ruff: noqa: RUF001 (letters that are taken for others are what this is about)

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

_CYRILLIC = {
    "а": "a", "в": "b", "е": "e", "к": "k", "м": "m", "н": "h", "о": "o", "р": "p", "с": "c", "т": "t", "у": "y",
    "х": "x", "і": "i", "ј": "j", "ѕ": "s", "ԁ": "d", "һ": "h", "ӏ": "l", "ԛ": "q", "ԝ": "w", "г": "r", "п": "n",
}  # fmt: skip
_GREEK = {
    "α": "a", "β": "b", "ε": "e", "η": "n", "ι": "i", "κ": "k", "ν": "v", "ο": "o", "ρ": "p", "τ": "t", "υ": "u",
    "χ": "x", "ω": "w", "ζ": "z",
}  # fmt: skip
_LATIN = {"ı": "i", "ł": "l", "ɡ": "g", "ɑ": "a", "ʟ": "l", "0": "o", "1": "l", "|": "l", "-": "_", ".": "_"}

_SINGLE: Mapping[int, str] = MappingProxyType(str.maketrans(_CYRILLIC | _GREEK | _LATIN))


def skeleton(name: str) -> str:
    """The same text for names that are hard to tell apart, after the idea of UTS 39 for the letters of common scripts.

    Case, accents and the kind of dash do not count; `l`, `I`, `i` and `1` are one, as are `o` and `0`, `rn` and `m`.
    """
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(char for char in plain if unicodedata.category(char)[0] not in "MC")
    plain = plain.replace("I", "l").casefold().translate(_SINGLE)
    return plain.replace("i", "l").replace("rn", "m").replace("vv", "w")
