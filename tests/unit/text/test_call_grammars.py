"""Calls that are drawn at random under a dialect's grammar are calls to its parser, with arguments that fit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from narthex_server.errors import InvalidRequest
from narthex_server.text.assets import TextAssets
from narthex_server.text.calls.hermes import HERMES
from narthex_server.text.calls.lfm2 import LFM2
from narthex_server.text.calls.llama3 import LLAMA3
from narthex_server.text.calls.mistral import GRANITE, MISTRAL, MISTRAL_NAMED
from narthex_server.text.calls.parser import Dialect
from narthex_server.text.calls.rule import ToolRule
from narthex_server.text.grammar import Grammars, Rules
from narthex_server.text.messages import ToolCall

GOLDEN = Path(__file__).parents[2] / "golden"
DIALECTS = [
    pytest.param(HERMES, "qwen3", id="hermes"),
    pytest.param(LLAMA3, "llama", id="llama3"),
    pytest.param(MISTRAL, "mistral_swa", id="mistral"),
    pytest.param(MISTRAL_NAMED, "qwen2", id="mistral-named"),
    pytest.param(GRANITE, "granite", id="granite"),
    pytest.param(LFM2, "lfm2", id="lfm2"),
]
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 6},
            "days": {"type": "integer", "minimum": 0, "maximum": 14},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "place-order": {
        "properties": {
            "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1, "maxItems": 2},
            "note": {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"type": "number"}]},
        },
        "required": ["lines"],
        "additionalProperties": False,
        "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string", "pattern": "^[A-Z]{2}\\d$"}},
                           "required": ["sku"], "additionalProperties": False}},
    },
    "now": {"type": "object", "additionalProperties": False},
}  # fmt: skip
TOOLS = [ToolRule(name, schema, exact=True) for name, schema in SCHEMAS.items()]


class Writer:
    """A model that draws at random, with a liking for what closes."""

    def __init__(self, name: str) -> None:
        self.assets = TextAssets.from_folder(GOLDEN / name)
        self.width = self.assets.tokenizer.size
        self.pieces = self.assets.tokenizer.pieces or ()
        self.grammars = Grammars(self.assets.tokenizer, self.assets.eos_ids, self.width)
        self.liking = np.array([6.0 if piece in (b'"', b"]", b"}", b")") else 0.0 for piece in self.pieces], np.float32)

    def write(self, rules: str, seed: int, begin: str = "", most: int = 600) -> tuple[str, bool]:
        grammar, rng = self.grammars.compile(Rules(rules), "tools"), np.random.default_rng(seed)
        forced, ids = self.assets.tokenizer.encode(begin, add_special=False), list[int]()
        for _ in range(most):
            logits = rng.normal(0, 2, self.width).astype(np.float32) + self.liking
            logits[[*self.assets.eos_ids]] += 8
            grammar.mask(logits)
            if forced and self.pieces[forced[0]] == b" " and logits[forced[0]] == -np.inf:
                forced.pop(0)  # SentencePiece's own, before a text
            token = forced.pop(0) if forced else int(logits.argmax())
            assert logits[token] > -np.inf, (token, self.pieces[token])
            grammar.accept(token)
            if token in self.assets.eos_ids:
                return b"".join(self.pieces[index] for index in ids).decode(), True
            ids.append(token)
        return b"".join(self.pieces[index] for index in ids).decode(errors="ignore"), False


def parse(dialect: Dialect, text: str) -> tuple[list[ToolCall], str]:
    parser = dialect.parser()
    pieces = [*parser.feed(text), *parser.finish()]
    return [one for one in pieces if isinstance(one, ToolCall)], "".join(one for one in pieces if isinstance(one, str))


def check(calls: Sequence[ToolCall]) -> None:
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize(("dialect", "name"), DIALECTS)
def test_forced_calls_are_calls_of_the_tools_with_arguments_that_fit(dialect: Dialect, name: str) -> None:
    writer, called = Writer(name), set[str]()
    for seed in range(12):
        text, ended = writer.write(f"start: calls\n{dialect.lark(TOOLS, writer.grammars)}", seed)
        calls, rest = parse(dialect, text)
        check(calls)
        assert not ended or (calls and not rest.strip()), text
        called |= {call.name for call in calls}
    assert len(called) > 1, "the walks reach several tools"


@pytest.mark.parametrize(("dialect", "name"), DIALECTS)
def test_several_calls_may_follow_each_other(dialect: Dialect, name: str) -> None:
    writer = Writer(name)
    rules = f"start: calls\n{dialect.lark(TOOLS, writer.grammars)}"
    two = {
        HERMES: '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        LLAMA3: '{"name": "now", "parameters": {}}; {"name": "now", "parameters": {}}',
        MISTRAL: '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
        MISTRAL_NAMED: "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}",
        GRANITE: '<|tool_call|>[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
        LFM2: "<|tool_call_start|>[now(), now()]<|tool_call_end|>",
    }[dialect]
    text, _ = writer.write(rules, 0, begin=two, most=len(writer.assets.tokenizer.encode(two, add_special=False)))
    assert [call.name for call in parse(dialect, text)[0]] == ["now", "now"]


@pytest.mark.parametrize(("dialect", "name"), DIALECTS)
def test_text_is_free_until_a_call_begins(dialect: Dialect, name: str) -> None:
    writer = Writer(name)
    rules = f"start: turn\n{dialect.lark(TOOLS, writer.grammars)}"
    said = 'Hm {"name": [x](y) <b>; '
    text, _ = writer.write(rules, 1, begin=said)
    assert text.lstrip().startswith(said)
    mark = "" if dialect is LLAMA3 else dialect.markers[0]
    begin = {LLAMA3: '{"name": "', LFM2: f"Well.{mark}["}.get(dialect, f"Well.{mark}")
    for seed in range(6):
        text, ended = writer.write(rules, seed, begin=begin)
        calls, _ = parse(dialect, text)
        check(calls)
        assert calls or not ended, text


def test_lfm2_leaves_out_what_keyword_arguments_cannot_say_and_refuses_it_where_it_must_hold() -> None:
    writer = Writer("lfm2")
    odd = {"properties": {"class": {"type": "string"}, "a b": {}, "n": {"type": "integer"}, "no": False}}
    text, _ = writer.write(f"start: calls\n{LFM2.lark([ToolRule('f', odd)], writer.grammars)}", 3)
    for call in parse(LFM2, text)[0]:
        assert json.loads(call.arguments).keys() <= {"n"}
    for schema in (odd | {"required": ["class"]}, {"anyOf": [{}]}):
        with pytest.raises(InvalidRequest, match="Python's"):
            LFM2.lark([ToolRule("f", schema, exact=True)], writer.grammars)
