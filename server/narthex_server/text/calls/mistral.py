"""Calls as `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]` or `[TOOL_CALLS]name[ARGS]{…}`: Mistral, Granite."""

import re
from collections.abc import Sequence

from narthex_server.text.calls.json_text import ObjectEnd, call_from_object, json_calls, make_call, name_begun, new_id
from narthex_server.text.calls.parser import CallBegun, CallParser, Dialect, Piece, marked
from narthex_server.text.calls.rule import ToolRule
from narthex_server.text.lark import Spelling, literal
from narthex_server.text.stop import partial_suffix

MARK = "[TOOL_CALLS]"
ARGUMENTS, CALL_ID = "[ARGS]", "[CALL_ID]"
_NAMED = re.compile(r"([\w.:-]+)(?:\[CALL_ID\]\w*)?\[ARGS\]\s*")
_NAME_BEGUN = re.compile(r"[\w.:-]{1,256}(?:\[[\w\[\]]{0,300})?")


class MistralParser:
    """Parses both forms after `mark`; each call comes out as soon as its object is complete."""

    def __init__(self, mark: str = MARK) -> None:
        self._mark = mark
        self._held = ""
        self._space = ""  # in front of the mark, for the case that no call follows
        self._in_calls = False
        self._done = 0  # characters of `_held` that already came out as calls
        self._end = ObjectEnd()
        self._id = ""  # of the call that has begun

    def feed(self, text: str) -> Sequence[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while self._calls(pieces) if self._in_calls else self._text(pieces):
            pass
        return pieces

    def finish(self) -> Sequence[Piece]:
        held = self._rest() if self._in_calls else self._held
        if self._in_calls and not self._done:
            held = self._space + held
        self._held, self._in_calls = "", False
        return [held] if held else []

    def _text(self, pieces: list[Piece]) -> bool:
        start = self._held.find(self._mark)
        keep = len(self._held) - start if start >= 0 else partial_suffix(self._held, self._mark)
        sure = self._held[: len(self._held) - keep].rstrip()
        if start >= 0:
            self._space = self._held[len(sure) : start]
            self._held = self._held[start:]
            self._in_calls, self._done, self._end = True, 0, ObjectEnd()
        else:
            self._held = self._held[len(sure) :]
        if sure:
            pieces.append(sure)
        return start >= 0

    def _calls(self, pieces: list[Piece]) -> bool:
        """Takes the next call from `_held`, which starts with the mark; False when more text is needed."""
        at = self._done or len(self._mark)
        rest = self._held[at:]
        body = rest.lstrip(" \t\r\n,[" if not self._done else " \t\r\n,]")
        if not body:
            return False
        if self._mark.startswith(body[: len(self._mark)]) and self._done:
            if len(body) < len(self._mark):
                return False
            self._held, self._space, self._done, self._end = body, "", 0, ObjectEnd()
            return True
        named = _NAMED.match(body)
        value = body[named.end() :] if named else body
        if named and not value:
            return False
        if value[0] != "{":
            if not named and _NAME_BEGUN.fullmatch(body):
                return False  # may become `name[ARGS]`
            return self._leave(pieces)
        if not self._id and (name := named[1] if named else name_begun(value)):
            self._id = new_id()
            pieces.append(CallBegun(self._id, name))
        end = self._end.find(value)
        if end is None:
            return False
        call_id, self._id = self._id, ""
        call = make_call(named[1], value[:end], call_id) if named else call_from_object(value[:end], call_id)
        if call is None:
            return self._leave(pieces)
        pieces.append(call)
        self._done = len(self._held) - len(value) + end
        self._end = ObjectEnd()
        return True

    def _leave(self, pieces: list[Piece]) -> bool:
        """What follows is no call: it is text, together with the mark if nothing came of it."""
        rest = self._rest()
        self._in_calls, self._id = False, ""
        if not self._done:
            pieces.append(self._space + self._mark)
            rest = rest[len(self._mark) :]
        self._held = rest
        return bool(self._held)

    def _rest(self) -> str:
        return self._held[self._done :].lstrip(" \t\r\n,]") if self._done else self._held


def _dialect(name: str, mark: str) -> Dialect:
    def parser() -> CallParser:
        return MistralParser(mark)

    def lark(tools: Sequence[ToolRule], spelling: Spelling) -> str:
        body = r'/ ?\[/ object (", " object)* "]"'  # older templates print a space there
        return f"{marked(mark, body, spelling)}\n{json_calls(tools, 'arguments')}"

    return Dialect(name, (mark, ARGUMENTS, CALL_ID), parser, lark)


def _named(tools: Sequence[ToolRule], spelling: Spelling) -> str:
    options = [f"{literal(tool.name)} {spelling.mark(ARGUMENTS)} {tool.arguments()}" for tool in tools]
    rules = [f"named-{index}: {option}" for index, option in enumerate(options)]
    one = f"named: {' | '.join(f'named-{index}' for index in range(len(tools)))}"
    return "\n".join([marked(MARK, "named", spelling, between='""'), one, *rules])


MISTRAL = _dialect("mistral", MARK)
GRANITE = _dialect("granite", "<|tool_call|>")
MISTRAL_NAMED = Dialect("mistral-named", (MARK, ARGUMENTS, CALL_ID), MistralParser, _named)
