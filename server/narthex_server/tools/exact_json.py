"""JSON with the size of its integers and the order of its keys, as fast as it can be had."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

LARGE = 64 * 1024
"""Bytes from which on there may be very many objects."""

_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 19
"""The fewest digits that may be more than 64 bits."""


@dataclass(frozen=True, slots=True)
class Dumped:
    """A value that is there as its JSON alone, compact and valid."""

    raw: bytes


def parse(raw: bytes) -> Any:
    """The value in `raw`; raises ValueError for what is not JSON, and RecursionError for what is nested too deeply."""
    with nullcontext() if len(raw) < LARGE else _uncollected():
        if _LONG not in raw.translate(_ZEROS):  # orjson makes floats of integers beyond 64 bits
            try:
                return orjson.loads(raw)
            except orjson.JSONDecodeError:  # also of lone surrogates, which JSON allows
                pass
        return _DECODER.decode(raw.decode(json.detect_encoding(raw), "surrogatepass"))


def dump(value: Any) -> bytes:
    """Compact UTF-8 JSON, without a line break, of what was parsed from JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits and lone surrogates
        return json.dumps(value, separators=(",", ":")).encode()


@contextmanager
def _uncollected() -> Iterator[None]:
    """New objects do not set off the collector, which would look at all of them again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
