"""JSON of which there is one spelling for each value (RFC 8785), so that equal arguments have equal digests."""

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

_text = json.encoder.encode_basestring  # escapes just what RFC 8785 does
_EXACT = 10**21  # below it ECMAScript writes numbers without an exponent, and from 1e-6 on
_SMALLEST = 1e-6


def canonical(value: Any) -> bytes:
    """The canonical spelling of a parsed JSON value; integers beyond 2**53 stay exact, where RFC 8785 rounds them.

    Raises ValueError for what has none: numbers that are not finite, lone surrogates.
    """
    return "".join(_pieces(value)).encode()


def _pieces(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield _text(value)
        case None:
            yield "null"
        case bool():
            yield "true" if value else "false"
        case int():
            yield str(value)
        case float():
            yield _number(value)
        case list() | tuple():
            yield "["
            for index, item in enumerate(value):
                if index:
                    yield ","
                yield from _pieces(item)
            yield "]"
        case dict():
            yield "{"
            names = list(value)
            if all(map(str.isascii, names)):
                names.sort()
            else:
                names.sort(key=_units)
            for index, name in enumerate(names):
                yield f",{_text(name)}:" if index else f"{_text(name)}:"
                yield from _pieces(value[name])
            yield "}"
        case _:
            raise ValueError(f"{type(value).__name__} is no type of JSON")


def _units(name: str) -> bytes:
    """What names are ordered by: their code units in UTF-16."""
    return name.encode("utf-16-be", "surrogatepass")


def _number(value: float) -> str:
    """As ECMAScript writes a number: the shortest digits that mean it."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
    if value.is_integer() and abs(value) < _EXACT:
        return format(Decimal(repr(value)).normalize() + 0, "f")
    shortest = repr(value)
    if _SMALLEST <= abs(value) < _EXACT:
        return format(Decimal(shortest), "f")
    digits, _, exponent = shortest.partition("e")
    return f"{digits}e{int(exponent):+d}"
