"""JSON objects from callers: parsed and bounded."""

import json
from typing import Any

from narthex_server.errors import InvalidRequest, Violation
from narthex_server.tools import exact_json

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 100


def parse_object(raw: bytes, name: str, field: str = "") -> dict[str, Any]:
    """The JSON object in `raw` (empty is {}), integers exact however large; `name` and `field` are what errors call it.

    Raises:
        InvalidRequest: not one JSON object, or beyond the limits of size and depth.
    """
    if not raw:
        return {}
    if len(raw) > MAX_BYTES:
        raise _invalid(field, f"{name} are {len(raw)} bytes; at most {MAX_BYTES} are accepted")
    try:
        value = exact_json.parse(raw) if raw.strip() else {}
    except RecursionError:
        raise _invalid(field, f"{name} are nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _invalid(field, f"{name} are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _invalid(field, f"{name} must be a JSON object, not {kind_of(value)}")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise _invalid(field, f"{name} are nested deeper than {MAX_DEPTH} levels")
    if b"\\u" in raw and _has_lone_surrogate(value):
        raise _invalid(field, f"{name} hold a lone surrogate (\\ud800 to \\udfff), which is no text")
    return value


def kind_of(value: object) -> str:
    """What JSON calls a value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _deeper_than(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [c for v in level if isinstance(v, dict | list) for c in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return False
    return True


def _has_lone_surrogate(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest(description, violations=(Violation(field, description),))
