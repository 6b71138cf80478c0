"""Calls as `<|tool_call_start|>[name(key="value"), …]<|tool_call_end|>`, in Python's notation: LFM2."""

import ast
import json
import warnings
from collections.abc import Sequence

from narthex_server.text.calls.json_text import make_call, members
from narthex_server.text.calls.parser import Dialect, Piece
from narthex_server.text.messages import ToolCall
from narthex_server.text.stop import partial_suffix

OPEN, CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
_NAMES = {"true": True, "false": False, "null": None}  # models mix JSON's spelling in


class Lfm2Parser:
    """Parses that form; the marks are special tokens, so nothing the model quotes can contain them."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> Sequence[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while True:
            start = self._held.find(OPEN)
            if start > 0:
                pieces.append(self._held[:start])
                self._held = self._held[start:]
            if start < 0:
                sure = len(self._held) - partial_suffix(self._held, OPEN)
                if sure:
                    pieces.append(self._held[:sure])
                    self._held = self._held[sure:]
                return pieces
            end = self._held.find(CLOSE)
            if end < 0:
                return pieces
            whole = self._held[: end + len(CLOSE)]
            pieces += parse_calls(whole[len(OPEN) : -len(CLOSE)]) or [whole]
            self._held = self._held[len(whole) :]

    def finish(self) -> Sequence[Piece]:
        held, self._held = self._held, ""
        calls = parse_calls(held[len(OPEN) :]) if held.startswith(OPEN) else []
        return calls or ([held] if held else [])


def parse_calls(text: str) -> list[ToolCall]:
    """The calls of a Python list of calls with literal keyword arguments; none if any part is something else."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know, such as "\\d"
            tree = ast.parse(text.strip(), mode="eval").body
        listed = tree.elts if isinstance(tree, ast.List) else [tree]
        found = [_call(node) for node in listed]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []
    return [call for call in found if call is not None] if all(found) else []


def write_calls(calls: Sequence[ToolCall]) -> str:
    """The form that the model itself writes, for templates that leave calls out of the conversation."""

    def literal(text: str) -> str:
        return repr(json.loads(text)) if not text.startswith('"') else json.dumps(json.loads(text), ensure_ascii=False)

    written = [
        f"{call.name}({', '.join(f'{key}={literal(value)}' for key, value in (members(call.arguments) or {}).items())})"
        for call in calls
    ]
    return f"{OPEN}[{', '.join(written)}]{CLOSE}"


def _call(node: ast.expr) -> ToolCall | None:
    if not isinstance(node, ast.Call) or node.args:
        return None
    arguments = {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
    if len(arguments) < len(node.keywords):
        return None
    return make_call(ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False))


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_literal(key)): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)


def _opening(name: str) -> str:
    return f"{OPEN}[{name}(" if name else f"{OPEN}["


LFM2 = Dialect("lfm2", (OPEN, CLOSE), Lfm2Parser, _opening, write_calls)
