"""Which URIs a template of RFC 6570 can stand for."""

import re
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

LONGEST_TEMPLATE = 1024
LONGEST_URI = 4096

_EXPRESSION = re.compile(r"\{([+#./;?&]?)([^{}]*)\}")
_LEADS: Mapping[str, str] = MappingProxyType({"#": "#", ".": ".", "/": "/", ";": ";", "?": "?", "&": "&"})
_WIDE = ("+", "#", "?", "&")
"""Operators whose values may hold every character; the others' stop at `/`, `?` and `#` unless they are exploded."""
_STOPS = "/?#"


class UriPattern:
    """All URIs that expanding `template` can give, and a few more: what the values are is left to the server.

    Templates come from servers that nobody vouches for, so all ways to match are followed at once, each a bit of a
    number: the time is the length of the URI times that of the template, whatever they are.
    """

    def __init__(self, template: str) -> None:
        self._literal: defaultdict[str, int] = defaultdict(int)
        self._narrow = self._wide = self._optional = 0
        self._length = 0
        if len(template) > LONGEST_TEMPLATE:
            self._end = 0  # matches nothing
            return
        rest = 0
        for found in _EXPRESSION.finditer(template):
            self._text(template[rest : found.start()])
            self._expression(found[1], found[2])
            rest = found.end()
        self._text(template[rest:])
        self._end = 1 << self._length

    def matches(self, uri: str) -> bool:
        if len(uri) > LONGEST_URI:
            return False
        at = self._skipped(1)
        for character in uri:
            stars = self._wide if character in _STOPS else self._wide | self._narrow
            at = self._skipped((at & self._literal.get(character, 0)) << 1 | at & stars)
            if not at:
                return False
        return bool(at & self._end)

    def _text(self, text: str) -> None:
        for character in text:
            self._literal[character] |= 1 << self._length
            self._length += 1

    def _expression(self, operator: str, variables: str) -> None:
        if lead := _LEADS.get(operator):
            self._optional |= 1 << self._length  # with no value there is no lead either
            self._text(lead)
        bit = 1 << self._length
        if operator in _WIDE or "*" in variables or (operator and "," in variables):
            self._wide |= bit
        else:
            self._narrow |= bit
        self._length += 1

    def _skipped(self, at: int) -> int:
        """All steps that are reached from these without a character."""
        stars = self._wide | self._narrow
        while (more := at | (at & stars) << 1 | (at & self._optional) << 2) != at:
            at = more
        return at
