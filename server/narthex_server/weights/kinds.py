"""The formats that weights can be quantised to, by the names that users give them."""

from collections.abc import Mapping
from types import MappingProxyType

from narthex_server.weights.encoding import ENCODERS
from narthex_server.weights.formats import FORMATS

KINDS = tuple(name for name in ENCODERS if name in FORMATS)
"""What can be written and multiplied, best first."""

_BITS: Mapping[str, str] = MappingProxyType(
    {"8": "Q8_0", "6": "Q6_K", "5": "Q5_K", "4": "Q4_K", "3": "Q3_K", "2": "Q2_K"}
)

SPELLINGS: Mapping[str, str] = MappingProxyType(
    {kind.lower(): kind for kind in KINDS}
    | {kind.lower().replace("_", ""): kind for kind in KINDS if kind.endswith("K")}
    | {bits: kind for bits, kind in _BITS.items() if kind in KINDS}
)
"""What is typed: ggml's names, mistral.rs's spelling of the K ones, and numbers of bits as it takes them."""


def kind_named(text: str) -> str:
    """The format that a user means, `Q4_K` for `q4_k`, `q4k` or `4`; ValueError lists what there is."""
    kind = SPELLINGS.get(text.lower())
    if kind is None:
        raise ValueError(f"is none of {', '.join(KINDS).lower()}, nor a number of bits like 4 or 8")
    return kind
