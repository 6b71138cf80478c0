"""Calls as `<|tool_call_start|>[name(key="value"), …]<|tool_call_end|>`, in Python's notation: LFM2."""

import ast
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from keyword import iskeyword
from typing import Any

from narthex_server.errors import InvalidRequest
from narthex_server.text.calls.json_text import make_call, members, new_id
from narthex_server.text.calls.parser import CallBegun, Dialect, Piece, marked
from narthex_server.text.calls.rule import ToolRule
from narthex_server.text.lark import Spelling, json_value, literal
from narthex_server.text.messages import ToolCall
from narthex_server.text.stop import partial_suffix

OPEN, CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
_NAME = re.compile(re.escape(OPEN) + r"\s{0,20}\[?\s{0,20}([\w.]{1,256})\(")
_ESCAPES = 'nrbtf\\"'  # those that mean the same in JSON and in Python
_COMBINING = frozenset({
    "$ref", "allOf", "anyOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas", "propertyNames",
    "minProperties", "enum", "const", "patternProperties", "unevaluatedProperties",
})  # fmt: skip
_NAMES = {"true": True, "false": False, "null": None}  # models mix JSON's spelling in


class Lfm2Parser:
    """Parses that form; the marks are special tokens, so nothing the model quotes can contain them."""

    def __init__(self) -> None:
        self._held = ""
        self._id = ""  # of the first call, when it has begun

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
            if not self._id and (begun := _NAME.match(self._held)):
                self._id = new_id()
                pieces.append(CallBegun(self._id, begun[1]))
            end = self._held.find(CLOSE)
            if end < 0:
                return pieces
            whole = self._held[: end + len(CLOSE)]
            pieces += parse_calls(whole[len(OPEN) : -len(CLOSE)], self._id) or [whole]
            self._id = ""
            self._held = self._held[len(whole) :]

    def finish(self) -> Sequence[Piece]:
        held, self._held = self._held, ""
        calls = parse_calls(held[len(OPEN) :], self._id) if held.startswith(OPEN) else []
        return calls or ([held] if held else [])


def parse_calls(text: str, first_id: str = "") -> list[ToolCall]:
    """The calls of a Python list of calls with literal keyword arguments; none if any part is something else."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know, such as "\\d"
            tree = ast.parse(text.strip(), mode="eval").body
        listed = tree.elts if isinstance(tree, ast.List) else [tree]
        found = [_call(node, "" if index else first_id) for index, node in enumerate(listed)]
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


def _call(node: ast.expr, call_id: str) -> ToolCall | None:
    name = ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):  # a name with dashes is a difference in Python
        name, node = ast.unparse(node.left).replace(" ", "") + "-", node.right
    if not isinstance(node, ast.Call) or node.args:
        return None
    arguments = {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
    if len(arguments) < len(node.keywords):
        return None
    return make_call(name + ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False), call_id)


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_literal(key)): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)


def _lark(tools: Sequence[ToolRule], spelling: Spelling) -> str:
    rules = [line for index, tool in enumerate(tools) for line in _call_rules(tool, f"call-{index}")]
    call = f"call: {' | '.join(f'call-{index}' for index in range(len(tools)))}"
    body = f'"[" call (", " call)* "]" {spelling.mark(CLOSE)}'
    return "\n".join([marked(OPEN, body, spelling), call, *rules])


def _call_rules(tool: ToolRule, name: str) -> Iterable[str]:
    """Rules for one call: the declared properties in their order, each once, with commas between those that are there.

    Errors: InvalidRequest where an exact tool's schema says more than a list of keyword arguments can follow.
    """
    schema = tool.schema
    properties: dict[str, Any] = dict(schema.get("properties") or {})
    required = [str(key) for key in schema.get("required") or ()]
    properties |= {key: schema.get("additionalProperties", True) for key in required if key not in properties}
    unfit = [*(key for key in required if not _expressible(key, properties)), *(_COMBINING & schema.keys())]
    if unfit and tool.exact:
        raise InvalidRequest(
            f"the parameters of tool {tool.name!r} cannot be enforced in this model's notation, which is Python's, "
            f"because of {unfit[0]!r}; offer it without strict, or with plain properties"
        )
    keys = [key for key in properties if _expressible(key, properties)]
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    yield f'{name}: {literal(tool.name + "(")} {name}-first-0 ")"'
    for index, key in enumerate(keys):
        own = {} if properties[key] is True else properties[key]
        value = json_value({**own, **shared}, lenient=not tool.exact, escapes=_ESCAPES)
        yield f"{name}-{index}: {literal(key + '=')} {value}"
        after = f"{name}-rest-{index + 1}"
        if key in required:
            yield f"{name}-first-{index}: {name}-{index} {after}"
            yield f'{name}-rest-{index}: ", " {name}-{index} {after}'
        else:
            yield f"{name}-first-{index}: {name}-{index} {after} | {name}-first-{index + 1}"
            yield f'{name}-rest-{index}: (", " {name}-{index})? {after}'
    yield f'{name}-first-{len(keys)}: ""'
    yield f'{name}-rest-{len(keys)}: ""'


def _expressible(key: str, properties: Mapping[str, Any]) -> bool:
    """Whether a call can have this keyword argument."""
    return key.isidentifier() and not iskeyword(key) and (properties[key] is True or isinstance(properties[key], dict))


LFM2 = Dialect("lfm2", (OPEN, CLOSE), Lfm2Parser, _lark, write_calls)
