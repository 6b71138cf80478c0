"""JSON as it appears in a model's text: where a value ends, and its members untouched."""

import json
import re
import secrets
import string
from collections.abc import Sequence
from typing import NoReturn

from narthex_server.text.calls.rule import ToolRule
from narthex_server.text.lark import literal
from narthex_server.text.messages import ToolCall

_SPACE = re.compile(r"[ \t\r\n]*")
_ID_LETTERS = string.ascii_letters + string.digits
_NAME_FIRST = re.compile(r'\{\s{0,20}"name"\s{0,20}:\s{0,20}("(?:[^"\\]|\\.){1,256}")\s{0,20},')


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def skip_space(text: str, at: int) -> int:
    """The first position from `at` that is not JSON white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def members(text: str) -> dict[str, str] | None:
    """The members of the JSON object that is all of `text`, each value as it is written; None if it is not one."""
    try:
        at = skip_space(text, 0)
        if text[at] != "{":
            return None
        found: dict[str, str] = {}
        at = skip_space(text, at + 1)
        while text[at] != "}":
            key, at = _DECODER.raw_decode(text, at)
            at = skip_space(text, at)
            if not isinstance(key, str) or text[at] != ":":
                return None
            start = skip_space(text, at + 1)
            _, end = _DECODER.raw_decode(text, start)
            found[key] = text[start:end]
            at = skip_space(text, end)
            if text[at] == ",":
                at = skip_space(text, at + 1)
                if text[at] == "}":
                    return None
            elif text[at] != "}":
                return None
        return found if skip_space(text, at + 1) == len(text) else None
    except (ValueError, IndexError, RecursionError):
        return None


class ObjectEnd:
    """Looks for the end of a JSON object or array in text that grows; each character is looked at once."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._at = 0

    def find(self, text: str) -> int | None:
        """The position after the value that `text` starts with, None while it is not complete."""
        for at in range(self._at, len(text)):
            character = text[at]
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
        self._at = len(text)
        return None


def new_id() -> str:
    """An id for a call: nine letters and digits, which Mistral's templates insist on and all others accept."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))


def name_begun(text: str) -> str | None:
    """The name in a JSON object that is being written and starts with it; None if it does not, or not yet."""
    found = _NAME_FIRST.match(text)
    return _string(found[1]) if found else None


def call_from_object(text: str, call_id: str = "") -> ToolCall | None:
    """The call that a JSON object with `name` and `arguments` (or `parameters`) stands for; None if it is not one."""
    found = members(text)
    if found is None or "name" not in found:
        return None
    name = _string(found["name"])
    return make_call(name, found.get("arguments", found.get("parameters", "")), call_id) if name else None


def make_call(name: str, arguments: str, call_id: str = "") -> ToolCall | None:
    """A call, with a new id if none is given; None unless `arguments` is a JSON object, a string of one, or empty."""
    text = arguments.strip()
    if text.startswith('"'):
        text = (_string(text) or "").strip()
    if text in ("", "null"):
        text = "{}"
    if members(text) is None:
        return None
    return ToolCall(call_id or new_id(), name, text)


def json_calls(tools: Sequence[ToolRule], key: str) -> str:
    """Lark's rule `object`: a call of one of these tools as a JSON object, its arguments under `key`."""
    heads = [f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{key}": ' for tool in tools]
    written = [f'{literal(head)} {tool.arguments()} "}}"' for head, tool in zip(heads, tools, strict=True)]
    return "\n".join([
        f"object: {' | '.join(f'object-{index}' for index in range(len(tools)))}",
        *(f"object-{index}: {rule}" for index, rule in enumerate(written)),
    ])  # fmt: skip


def _string(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
