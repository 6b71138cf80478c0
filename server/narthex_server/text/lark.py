"""Pieces of grammars in Lark's notation, with the extensions of the library that runs them.

A rule that is a literal or a pattern matches bytes of text; special tokens are no text, and are named by number.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

TEXT = "/(?s:.*)/"
"""Any text."""
_SPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""White space between the parts of JSON: enough to indent with, and too little to get lost in."""
_ESCAPES = 'nrbtf\\"u'


class Spelling(Protocol):
    """How a tokenizer writes the marks of a model's format."""

    def mark(self, text: str) -> str:
        """A special token by its number, other text as it is."""
        ...

    def special(self, text: str) -> bool:
        """Whether it is a special token."""
        ...


def literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def pattern(expression: str) -> str:
    """A regular expression between slashes; slashes in it that are not escaped yet get a backslash."""
    escaped, slashed = False, ""
    for character in expression:
        slashed += "\\/" if character == "/" and not escaped else character
        escaped = character == "\\" and not escaped
    return f"/{slashed.replace(chr(10), chr(92) + 'n')}/"


def json_value(schema: Mapping[str, Any], *, lenient: bool = False, escapes: str = _ESCAPES) -> str:
    """JSON that fits a schema; `lenient` leaves out what cannot be enforced, which is an error otherwise."""
    options = {"whitespace_pattern": _SPACE, "lenient": lenient, "json_allowed_escapes": escapes}
    return f"%json {json.dumps({**schema, 'x-guidance': options}, ensure_ascii=False)}"


def until(mark: str, name: str, spelling: Spelling) -> str:
    """The rule `name`: any text up to and with the first `mark`."""
    if spelling.special(mark):
        return f"{name}: {TEXT} {spelling.mark(mark)}"
    escaped = "".join(f"\\u{{{ord(character):x}}}" for character in mark)
    return f"{name}[lazy]: /(?s:.*){escaped}/"
