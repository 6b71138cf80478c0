"""Pieces of grammars in Lark's notation, with the extensions of the library that runs them.

A rule that is a literal or a pattern matches bytes of text; special tokens are no text, and are named by number.
"""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

TEXT = "/(?s:.*)/"
"""Any text."""
_SPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""White space between the parts of JSON: enough to indent with, and too little to get lost in."""
_ESCAPES = 'nrbtf\\"u'
_SPELLED: Mapping[str, str] = MappingProxyType(
    {
        "/": "\\/", "\n": "\\n", "\\\n": "\\n",
        "\\d": "[0-9]", "\\w": "[0-9A-Za-z_]", "\\s": r"[\t\n\f\r ]",
        "\\D": "[^0-9]", "\\W": "[^0-9A-Za-z_]", "\\S": r"[^\t\n\f\r ]",
    }
)  # fmt: skip
_SPELLED_APART = re.compile(r"\\.|/|\n", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][\w-]*")
_RULE = re.compile(r"^[ \t]*[?!]*([A-Za-z_][\w-]*)(?:\[[^\]\n]*\])?(?:\.-?\d+)?[ \t]*:", re.MULTILINE)


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
    """A regular expression between slashes, its classes of digits, words and space those of ASCII, as in RE2."""

    def spelled(found: re.Match[str]) -> str:
        return _SPELLED.get(found[0], found[0])

    return f"/{_SPELLED_APART.sub(spelled, expression)}/"


def depth(grammar: str) -> int:
    """How many rules deep a reading of the grammar goes that follows every rule where it is first named."""
    starts = [*_RULE.finditer(grammar)]
    ends = [*(start.start() for start in starts), len(grammar)][1:]
    bodies = {start[1]: grammar[start.end() : end] for start, end in zip(starts, ends, strict=True)}
    seen, deepest, path = {"start"}, 0, [_NAME.finditer(bodies.get("start", ""))]
    while path:
        deepest = max(deepest, len(path))
        named = next((found[0] for found in path[-1] if found[0] in bodies and found[0] not in seen), None)
        if named is None:
            path.pop()
        else:
            seen.add(named)
            path.append(_NAME.finditer(bodies[named]))
    return deepest


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
