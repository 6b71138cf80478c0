"""Calls as `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen, SmolLM and many others."""

from collections.abc import Sequence

from narthex_server.text.calls.json_text import (
    ObjectEnd,
    call_from_object,
    json_calls,
    name_begun,
    new_id,
    skip_space,
)
from narthex_server.text.calls.parser import CallBegun, Dialect, Piece, marked
from narthex_server.text.calls.rule import ToolRule
from narthex_server.text.lark import Spelling
from narthex_server.text.stop import partial_suffix

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_BREAK = '"\\n"'


class HermesParser:
    """Parses that form; white space around calls belongs to them."""

    def __init__(self) -> None:
        self._held = ""
        self._space = ""  # in front of the call, for the case that it is none
        self._end: ObjectEnd | None = None  # inside a call: looks for the end of its JSON
        self._close_from = 0
        self._id = ""  # of the call that has begun
        self._after_call = False

    def feed(self, text: str) -> Sequence[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while self._inside(pieces) if self._end is not None else self._outside(pieces):
            pass
        return pieces

    def finish(self) -> Sequence[Piece]:
        held, self._held = self._held, ""
        if self._end is None:
            return [held] if held and not (self._after_call and held.isspace()) else []
        self._end = None
        # A model may end its turn, or run out of tokens, right before the closing mark.
        call = call_from_object(held.removeprefix(OPEN), self._id)
        return [call] if call else [self._space + held]

    def _outside(self, pieces: list[Piece]) -> bool:
        start = self._held.find(OPEN)
        if start >= 0:
            before = self._held[:start].rstrip()
            self._space = self._held[len(before) : start]
            self._emit(pieces, before)
            self._held = self._held[start:]
            self._end, self._close_from, self._id = ObjectEnd(), 0, ""
            return True
        keep = partial_suffix(self._held, OPEN)
        sure = self._held[: len(self._held) - keep].rstrip()
        self._emit(pieces, sure)
        self._held = self._held[len(sure) :]
        return False

    def _inside(self, pieces: list[Piece]) -> bool:
        assert self._end is not None
        body = self._held[len(OPEN) :]
        start = skip_space(body, 0)
        if not self._id and (name := name_begun(body[start:])):
            self._id = new_id()
            pieces.append(CallBegun(self._id, name))
        if not self._close_from and body[start : start + 1] == "{":
            end = self._end.find(body[start:])
            if end is None:
                return False
            self._close_from = start + end  # a closing mark inside the JSON's strings does not count
        close = body.find(CLOSE, self._close_from)
        if close < 0:
            return False
        call = call_from_object(body[:close], self._id)
        stop = len(OPEN) + close + len(CLOSE)
        if call:
            pieces.append(call)
        else:
            self._emit(pieces, self._space + self._held[:stop])
        self._after_call = call is not None
        self._held = self._held[stop:]
        self._end = None
        return True

    def _emit(self, pieces: list[Piece], text: str) -> None:
        if text:
            pieces.append(text.lstrip("\n") if self._after_call else text)
            self._after_call = False


def _lark(tools: Sequence[ToolRule], spelling: Spelling) -> str:
    body = f'"\\n" object "\\n" {spelling.mark(CLOSE)}'
    return f"{marked(OPEN, body, spelling, between=_BREAK)}\n{json_calls(tools, 'arguments')}"


HERMES = Dialect("hermes", (OPEN, CLOSE), HermesParser, _lark)
