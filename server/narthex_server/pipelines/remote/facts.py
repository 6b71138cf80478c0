"""What a remote engine says of its models (`GET /models`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 2**31


@dataclass(frozen=True, slots=True)
class Facts:
    """One model of it: its name there, and what is known: 0 and empty are not. `owner` is the program."""

    model: str = ""
    max_context: int = 0
    vocab_size: int = 0
    parameters: int = 0
    owner: str = ""


def read_facts(listing: Any, wanted: str) -> Facts:
    """The facts of the `wanted` model, of the first one where that is empty; only its name where it is not listed."""
    for entry in _entries(listing):
        name = entry.get("id")
        if isinstance(name, str) and name and wanted in ("", name):
            meta = entry["meta"] if isinstance(entry.get("meta"), Mapping) else {}
            owner = entry.get("owned_by")
            return Facts(
                name,
                # vLLM and its kin; llama-server; narthex
                _number(
                    entry.get("max_model_len"), meta.get("n_ctx"), meta.get("n_ctx_train"), entry.get("max_context")
                ),
                _number(meta.get("n_vocab")),
                _number(meta.get("n_params"), most=2**63),
                owner if isinstance(owner, str) else "",
            )
    return Facts(wanted)


def _entries(listing: Any) -> Iterator[Mapping[str, Any]]:
    entries = listing.get("data") if isinstance(listing, Mapping) else None
    yield from (entry for entry in entries or () if isinstance(entry, Mapping)) if isinstance(entries, list) else ()


def _number(*given: Any, most: int = _MOST) -> int:
    return next((value for value in given if type(value) is int and 0 < value < most), 0)
