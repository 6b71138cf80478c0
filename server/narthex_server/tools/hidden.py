"""Characters in texts that people do not see and models read."""

import json
import re
from typing import Any

MOST = 8 * 1024 * 1024
"""Bytes of JSON that are looked through; larger ones are not let through."""

_ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, and all that moves the cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"  # titles, links
    r"|\x1b[@-Z\\-~]"
)

_PICTURES = "#*0-9\u00a9\u00ae\u2010-\u2027\u2030-\u205e\u2070-\u32ff\U0001f000-\U0001faff"
_JOINED = "\u0600-\u08ff\u0900-\u17ff\u1800-\u18af\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls, except for tab and the ends of lines
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"  # of no width, or changing the direction
    "\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # tags and rare variations carry whole texts
    "\ud800-\udfff"
    "]"
    # joiners between letters of scripts that have them, and within pictures, belong to the text
    f"|(?<![{_JOINED}])[\u200c\u200d]|[\u200c\u200d](?![{_JOINED}])|(?<![{_PICTURES}])[\ufe0e\ufe0f]"
)

_PATTERNS = ("pattern", "patternProperties")
"""Keys of JSON Schema that hold regular expressions, which may name any character."""


class HiddenInJson(ValueError):
    """JSON that cannot be looked through: too large or too deep."""


def without_hidden(text: str) -> str:
    """The text without what is not to be seen in it: controls, terminal sequences, marks of direction and the like."""
    if text.isascii() and text.isprintable():
        return text
    while (clean := _HIDDEN.sub("", _ANSI.sub("", text))) != text:
        text = clean
    return text


def json_without_hidden(raw: bytes) -> bytes:
    """The same for all texts in JSON; those that are regular expressions of a schema stay. The very bytes if clean.

    Raises:
        HiddenInJson: `raw` cannot be looked through.
    """
    if len(raw) > MOST:
        raise HiddenInJson
    text = raw.decode(errors="replace")
    if "\\u" not in text and "\\b" not in text and "\\f" not in text and without_hidden(text) == text:
        return raw
    try:
        value = json.loads(raw)
        clean = _clean(value)
        if clean == value:
            return raw
        return json.dumps(clean, ensure_ascii=False, separators=(",", ":")).encode()
    except (RecursionError, ValueError):
        raise HiddenInJson from None


def _clean(value: Any) -> Any:
    match value:
        case str():
            return without_hidden(value)
        case list():
            return [_clean(one) for one in value]
        case dict():
            return {without_hidden(key): _part(key, part) for key, part in value.items()}
        case _:
            return value


def _part(key: str, value: Any) -> Any:
    if key not in _PATTERNS:
        return _clean(value)
    return {pattern: _clean(part) for pattern, part in value.items()} if isinstance(value, dict) else value
