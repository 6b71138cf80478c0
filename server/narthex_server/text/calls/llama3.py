"""Calls as a turn that is `{"name": …, "parameters": {…}}`, several divided by `;`: Llama 3.1 and later."""

import re
from collections.abc import Sequence

from narthex_server.text.calls.json_text import ObjectEnd, call_from_object, json_calls, name_begun, new_id
from narthex_server.text.calls.parser import CallBegun, Dialect, Piece
from narthex_server.text.calls.rule import ToolRule
from narthex_server.text.lark import Spelling

MARK = "<|python_tag|>"
_KEYS = frozenset({"name", "parameters", "arguments", "type", "function", "id"})
_FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"')


class Llama3Parser:
    """Parses that form; a turn that starts as anything else is plain text, and so is what follows the calls."""

    def __init__(self) -> None:
        self._held = ""
        self._end = ObjectEnd()
        self._id = ""  # of the call that has begun
        self._plain = self._called = False

    def feed(self, text: str) -> Sequence[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while not self._plain:
            start = self._start()
            if start is None:
                return pieces
            if start < 0:
                self._plain = True
                break
            value = self._held[start:]
            if not self._id and (name := name_begun(value)):
                self._id = new_id()
                pieces.append(CallBegun(self._id, name))
            end = self._end.find(value)
            if end is None:
                return pieces
            call = call_from_object(value[:end], self._id)
            if call is None:
                self._plain = True
                break
            pieces.append(call)
            self._called, self._id = True, ""
            self._held = value[end:]
            self._end = ObjectEnd()
        if self._held:
            pieces.append(self._held)
            self._held = ""
        return pieces

    def finish(self) -> Sequence[Piece]:
        held, self._held = self._held, ""
        left = held.strip(" \t\r\n;,") if self._called else held
        return [held] if left else []

    def _start(self) -> int | None:
        """Where the next object begins; None if it is too early to say, -1 if there is none."""
        start = len(self._held) - len(self._held.lstrip(" \t\r\n;,"))
        rest = self._held[start:]
        if rest.startswith(MARK):
            start = len(self._held) - len(rest[len(MARK) :].lstrip())
            rest = self._held[start:]
        elif MARK.startswith(rest):
            return None
        if not rest:
            return None
        first = _FIRST_KEY.match(rest)
        if rest[0] != "{" or (first and first[1] not in _KEYS):
            return -1
        return start


def _lark(tools: Sequence[ToolRule], spelling: Spelling) -> str:
    return "\n".join([
        f'calls: {spelling.mark(MARK)}? object ("; " object)*' if spelling.special(MARK) else _CALLS,
        "turn: calls | PLAIN",
        # What the parser takes for text: anything that does not start like an object.
        r"PLAIN: /([ \t\r\n;,]*[^{ \t\r\n;,](?s:.*))?/",
        json_calls(tools, "parameters"),
    ])  # fmt: skip


_CALLS = 'calls: object ("; " object)*'
LLAMA3 = Dialect("llama3", (MARK,), Llama3Parser, _lark)
