"""Grammars over the tokens of real vocabularies, followed by a model that has no idea what it says."""

import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jsonschema
import numpy as np
import pytest
from narthex_server.errors import InvalidRequest
from narthex_server.text import lark
from narthex_server.text.assets import TextAssets
from narthex_server.text.constraint import Choice, Constraint, JsonSchema, LarkGrammar, Regex
from narthex_server.text.grammar import LARGEST, Grammars, Rules, TokenGrammar
from numpy.typing import NDArray

GOLDEN = Path(__file__).parents[2] / "golden"
DEMO = Path(__file__).parents[3] / "models" / "demo" / "model"
FOLDERS = ("llama", "mistral_swa", "qwen3", "gemma3", "phi3")
GGUF_FOLDERS = ("gguf_llama", "gguf_qwen3")
EXTRA = 7
"""Logits of a model beyond its tokenizer's tokens."""


class Walker:
    """Draws tokens at random under a grammar."""

    def __init__(self, assets: TextAssets) -> None:
        self.assets = assets
        self.width = assets.tokenizer.size + EXTRA
        self.grammars = Grammars(assets.tokenizer, assets.eos_ids, self.width)

    def compile(self, constraint: Constraint) -> TokenGrammar:
        return self.grammars.compile(Rules(constraint.lark()), f"constraint.{constraint.field}")

    def logits(self, rng: np.random.Generator) -> NDArray[np.float32]:
        return rng.normal(0, 3, self.width).astype(np.float32)

    def write(self, grammar: TokenGrammar, seed: int, most: int = 400) -> tuple[str, bool]:
        """The text and whether it was ended by the model; the first half of the tokens is free to wander."""
        rng, ids = np.random.default_rng(seed), list[int]()
        for step in range(most):
            logits = self.logits(rng)
            if step > most // 2:  # come to an end: ends first, then whatever closes
                logits[[*self.assets.eos_ids]] += 100
                logits[: self.assets.tokenizer.size] += self.closing
            grammar.mask(logits)
            token = int(logits.argmax())
            grammar.accept(token)
            if token in self.assets.eos_ids:
                return self.text(ids), True
            ids.append(token)
        return self.text(ids), False

    def text(self, ids: list[int]) -> str:
        pieces = self.assets.tokenizer.pieces or ()
        return b"".join(pieces[index] for index in ids).decode()

    @property
    def closing(self) -> NDArray[np.float32]:
        pieces = self.assets.tokenizer.pieces or ()
        return np.array([20 if piece and piece in (b'"', b"]", b"}") else 0 for piece in pieces], np.float32)

    def allowed(self, grammar: TokenGrammar) -> set[bytes]:
        logits = np.zeros(self.width, np.float32)
        grammar.mask(logits)
        pieces = self.assets.tokenizer.pieces or ()
        return {pieces[index] for index in np.flatnonzero(logits == 0) if index < len(pieces)}


@pytest.fixture(scope="module")
def demo() -> Walker:
    return Walker(TextAssets.from_folder(DEMO))


def gguf_assets(folder: Path) -> TextAssets:
    reader = gguf.GGUFReader(sorted(folder.glob("*.gguf"))[0])
    return TextAssets.from_gguf({name: field.contents() for name, field in reader.fields.items()})


@pytest.mark.parametrize("name", [*FOLDERS, *GGUF_FOLDERS])
def test_a_tokenizers_own_spelling_of_a_text_is_allowed_and_nothing_but_the_text_follows(name: str) -> None:
    assets = gguf_assets(GOLDEN / name) if name in GGUF_FOLDERS else TextAssets.from_folder(GOLDEN / name)
    walker, texts = Walker(assets), ('{"naïve": [1, "日本 🙂"]}', "x = 3.14;\n\ty  += 1")
    pieces = assets.tokenizer.pieces
    assert pieces is not None
    for text in texts:
        ids = assets.tokenizer.encode(text, add_special=False)
        spelled = b"".join(pieces[index] for index in ids).decode()
        assert spelled.removeprefix(" ") == text
        grammar = walker.compile(Choice((spelled, "something else")))
        for token in ids:
            logits = np.zeros(walker.width, np.float32)
            grammar.mask(logits)
            assert logits[token] == 0 and np.isinf(logits[-EXTRA:]).all()
            grammar.accept(token)
        logits = np.zeros(walker.width, np.float32)
        grammar.mask(logits)
        assert {*np.flatnonzero(np.isfinite(logits)).tolist()} == assets.eos_ids and grammar.complete


@pytest.mark.parametrize("seed", range(20))
def test_choices_and_patterns_are_matched_whole(demo: Walker, seed: int) -> None:
    options = ("red", 'gr"é/\\en', "blue\nblue", "re")
    text, ended = demo.write(demo.compile(Choice(options)), seed)
    assert ended and text in options
    for expression in (r"[a-f]{3,7}(\d+|é/[x-z]|[\w\s]\W\D\S)?", "(?i)straße|^[0-9]{4}-[0-9]{2}$", r"a\/b/c\\", "a\nb"):
        text, ended = demo.write(demo.compile(Regex(expression)), seed)
        assert not ended or re.fullmatch(expression, text, re.ASCII if "\\d" in expression else 0), text


@pytest.mark.parametrize("seed", range(10))
def test_sentences_of_a_lark_grammar_are_its(demo: Walker, seed: int) -> None:
    rules = 'start: sum\nsum: term ("+" term)*\nterm: NUMBER | "(" sum ")"\nNUMBER: /[1-9][0-9]{0,3}/'
    text, ended = demo.write(demo.compile(LarkGrammar(rules)), seed, 100)
    assert not ended or isinstance(eval(text), int), text


def random_schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "bounded", "any"]
    kind = chance.choice(kinds if depth > 2 else [*kinds, "object", "array", "anyOf", "ref"] * 2)
    below = lambda: random_schema(chance, depth + 1)  # noqa: E731
    match kind:
        case "object":
            names = chance.sample(["a", "b c", 'd"', "é", "longer_name"], chance.randint(1, 4))
            required = [name for name in names if chance.random() < 0.6]
            extra = chance.choice([False, {"type": "integer"}])
            properties = {name: below() for name in names}
            return {"type": "object", "properties": properties, "required": required, "additionalProperties": extra}
        case "array":
            return {"type": "array", "items": below(), "minItems": chance.randint(0, 2), "maxItems": 3}
        case "anyOf":
            return {"anyOf": [below(), below()]}
        case "ref":
            return {"type": "object", "properties": {"n": {"$ref": "#/$defs/node"}}, "required": ["n"]}
        case "string":
            return {"type": "string", **chance.choice([{}, {"maxLength": 4}, {"pattern": "^[a-z]{2,}-\\d$"}])}
        case "enum":
            return {"enum": ["x", 3, None, {"k": [1]}, "ünï"]}
        case "bounded":
            return {"type": "integer", "minimum": -3, "exclusiveMaximum": 70, "multipleOf": 2}
        case "any":
            return {}
        case _:
            return {"type": kind}


NODE = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_drawn_fits_the_schema_once_it_is_complete(demo: Walker, seed: int) -> None:
    schema = random_schema(random.Random(seed)) | {"$defs": {"node": NODE}}
    text, ended = demo.write(demo.compile(JsonSchema(json.dumps(schema))), seed)
    if ended:
        jsonschema.validate(json.loads(text), schema)


def test_the_walks_do_come_to_an_end(demo: Walker) -> None:
    """Otherwise the tests above would prove nothing."""
    schema = (
        '{"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array"}}, "required": ["a", "b"]}'
    )
    ends = [demo.write(demo.compile(JsonSchema(schema)), seed)[1] for seed in range(10)]
    assert sum(ends) >= 8


def test_an_empty_schema_is_any_json(demo: Walker) -> None:
    for seed in range(10):
        text, ended = demo.write(demo.compile(JsonSchema("{}")), seed)
        if ended:
            json.loads(text)
    assert {b"{", b"[", b'"', b"t", b"1"} <= demo.allowed(demo.compile(JsonSchema("true")))


def test_white_space_in_json_is_bounded(demo: Walker) -> None:
    grammar, space = demo.compile(JsonSchema('{"type": "object"}')), demo.assets.tokenizer.encode(" ")[0]
    grammar.accept(demo.assets.tokenizer.encode("{")[0])
    for _ in range(40):
        grammar.accept(space)
    assert b" " not in demo.allowed(grammar) and b"}" in demo.allowed(grammar)


def test_a_grammar_goes_on_where_it_was_after_a_journey(demo: Walker) -> None:
    grammar = demo.compile(Regex("ab[cd]{3}"))
    for token in demo.assets.tokenizer.encode("abc"):
        grammar.accept(token)
    copy = pickle.loads(pickle.dumps(grammar))
    assert demo.allowed(copy) == demo.allowed(grammar) == {b"c", b"d"} | ({b"cd"} & demo.allowed(grammar))


def test_one_request_does_not_move_another_of_the_same_grammar(demo: Walker) -> None:
    first, second = (demo.compile(Choice(("left", "right"))) for _ in range(2))
    first.accept(demo.assets.tokenizer.encode("r")[0])
    assert b"l" in demo.allowed(second) and b"l" not in demo.allowed(first)


def test_the_grammar_wins_where_all_that_it_allows_is_ruled_out(demo: Walker) -> None:
    logits = np.full(demo.width, 5, np.float32)
    logits[:-EXTRA] = -np.inf
    demo.compile(Choice(("a", "b"))).mask(logits)
    pieces = demo.assets.tokenizer.pieces or ()
    assert {pieces[index] for index in np.flatnonzero(np.isfinite(logits))} == {b"a", b"b"}


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        (Regex("a(b"), "character 2 of the regular expression: unclosed group"),
        (Regex("a(?=b)"), "look-around"),
        (LarkGrammar('start: "a" b'), 'line 1, column 8: unknown name: "b"'),
        (LarkGrammar('start: "a"\nb: "c'), "line 2"),
        (LarkGrammar('a: "x"'), "no start rule"),
        (LarkGrammar('start: start "a"'), "fits no text"),
        (LarkGrammar('%llguidance {}\nstart: "a"'), "without %llguidance"),
        (LarkGrammar("start: <|nope|>"), "unknown special token"),
        (LarkGrammar("start: " + "(" * 20_000), "nested"),
        (LarkGrammar("start: a0\n" + "\n".join(f'a{n}: "x" a{n + 1}' for n in range(9_000))), "9001 deep"),
        (LarkGrammar("start: a0\n" + "\n".join(f'a{n}: "x" a{n + 1}' for n in range(150))), 'unknown name: "a150"'),
        (LarkGrammar('start: "' + "x" * LARGEST + '"'), f"at most {LARGEST}"),
        (Choice(()), "at least one"),
        (Choice(("a", "")), "none of them empty"),
        (JsonSchema("{"), "broken at line 1, column 2"),
        (JsonSchema("3"), "must be a JSON Schema"),
        (JsonSchema("false"), "must be a JSON Schema"),
        (JsonSchema('{"minimum": 1e999}'), "must be JSON"),
        (JsonSchema('{"minimum": NaN}'), "must be JSON"),
        (JsonSchema('"\\ud800"'), "must be"),
        (JsonSchema('{"items": ' * 50_000), "nested too deeply"),
        (JsonSchema('{"items": ' * 500 + "{}" + "}" * 500), "nested too deeply"),
        (LarkGrammar(""), "start"),
        (LarkGrammar("no rule"), "at line 1"),
        (JsonSchema('{"type": "objekt"}'), "Invalid type: objekt"),
        (JsonSchema('{"not": {}}'), "not"),
        (JsonSchema('{"oneOf": [{"type": "string"}, {"minLength": 2}]}'), "oneOf"),
        (JsonSchema('{"$ref": "http://example.com/schema"}'), "not present"),
        (JsonSchema('{"type": "integer", "multipleOf": 1000000007}'), "too complex"),
    ],
)
def test_a_broken_rule_is_refused_by_field_and_place(demo: Walker, constraint: Constraint, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        demo.compile(constraint)
    (violation,) = caught.value.violations
    assert violation.field.startswith(f"constraint.{constraint.field}") and said in violation.description
    assert len(violation.description) < 400 and "guidance" not in violation.description.replace("%llguidance", "")


def test_long_chains_of_references_break_nothing(demo: Walker) -> None:
    """The library recurses over rules, which on a thread's usual stack ends the process."""
    nodes: dict[str, Any] = {f"n{n}": {"items": {"$ref": f"#/$defs/n{n + 1}"}} for n in range(4_000)}
    schema = {"$ref": "#/$defs/n0", "$defs": nodes | {"n4000": {"type": "string"}}, "type": "array"}
    assert demo.allowed(demo.compile(JsonSchema(json.dumps(schema)))) >= {b"["}


def test_how_deep_rules_go_is_counted_whatever_their_order_and_loops() -> None:
    assert lark.depth('b: "x" c\nstart: a | b\na[lazy]: start | b\n?c.2: D\n!D: /:/') == 5
    assert lark.depth('a: "x"') == 1
    assert lark.depth("no rule") == 1


def test_a_grammar_that_gets_out_of_hand_ends_its_request_with_an_error(demo: Walker) -> None:
    grammar = demo.compile(LarkGrammar('start: a{0,100}\na: b | c\nb: ("x" | "xx")*\nc: ("x" | "xxx" | "xx")*'))
    token = demo.assets.tokenizer.encode("x")[0]
    with pytest.raises(InvalidRequest, match="too complex"):
        for _ in range(3_000):
            grammar.mask(np.zeros(demo.width, np.float32))
            grammar.accept(token)


def test_a_vocabulary_without_the_bytes_is_told_and_not_led_astray(demo: Walker) -> None:
    class Poor:
        pieces, special_ids = (b"a", b"b", b"</s>"), frozenset({2})

    grammars = Grammars(Poor(), frozenset({2}), 3)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="fits no text"):
        grammars.compile(Rules('start: "x"'), "constraint.lark")
    grammar = grammars.compile(Rules('start: "ax"'), "constraint.lark")
    with pytest.raises(InvalidRequest, match="no tokens for"):
        for token in (0, 1):
            grammar.mask(np.zeros(3, np.float32))
            grammar.accept(token)


def test_a_model_without_an_end_or_without_pieces_has_no_constraints(assets: Callable[[str], TextAssets]) -> None:
    tokenizer = assets("qwen3").tokenizer
    grammars = Grammars(tokenizer, frozenset(), tokenizer.size)
    assert not grammars.possible
    with pytest.raises(InvalidRequest, match="cannot be enforced"):
        grammars.compile(Rules('start: "a"'), "constraint.lark")
