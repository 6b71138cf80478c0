import json
import random
from collections.abc import Callable

import pytest
from narthex_server.text.assets import TextAssets
from narthex_server.text.calls.detect import detect
from narthex_server.text.calls.hermes import HERMES
from narthex_server.text.calls.lfm2 import LFM2, parse_calls, write_calls
from narthex_server.text.calls.llama3 import LLAMA3
from narthex_server.text.calls.mistral import GRANITE, MISTRAL, MISTRAL_NAMED
from narthex_server.text.calls.parser import CallBegun, Dialect
from narthex_server.text.messages import ToolCall

Parsed = list[str | tuple[str, str]]


def parse(dialect: Dialect, text: str, size: int) -> Parsed:
    """The turn in pieces of `size` characters; neighbouring text joined, calls as (name, arguments)."""
    parser = dialect.parser()
    pieces = [piece for at in range(0, len(text), size) for piece in parser.feed(text[at : at + size])]
    found: Parsed = []
    begun: CallBegun | None = None
    for piece in [*pieces, *parser.finish()]:
        if isinstance(piece, CallBegun):
            assert begun is None or piece.id != begun.id
            begun = piece
        elif isinstance(piece, ToolCall):
            assert len(piece.id) == 9 and piece.id.isalnum()
            assert begun is None or piece.id != begun.id or piece.name == begun.name
            found.append((piece.name, piece.arguments))
        elif found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


A = '{"city": "Pa\\"ris", "n": 1.50}'
CASES: list[tuple[Dialect, str, Parsed]] = [
    (HERMES, "Just <text> and 2 < 3.\n", ["Just <text> and 2 < 3.\n"]),
    (HERMES, f'<tool_call>\n{{"name": "f", "arguments": {A}}}\n</tool_call>', [("f", A)]),
    (
        HERMES,
        f'Look:\n<tool_call>\n{{"name": "f", "arguments": {A}}}\n</tool_call>\n<tool_call>'
        '{"arguments": {}, "name": "g"}</tool_call>\n',
        ["Look:", ("f", A), ("g", "{}")],
    ),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
        [("f", '{"a": "</tool_call>"}')],
    ),
    (HERMES, '<tool_call>{"name": "f"}', [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [("f", '{"a": 1}')]),
    (HERMES, '<tool_call>{"name": "f", </tool_call> so', ['<tool_call>{"name": "f", </tool_call> so']),
    (HERMES, "<tool_call>hm</tool_call>then", ["<tool_call>hm</tool_call>then"]),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        ['<tool_call>{"name": "f", "arguments": [1]}</tool_call>'],
    ),
    (HERMES, '<tool_call>{"name": "f", "argu', ['<tool_call>{"name": "f", "argu']),
    (HERMES, "a <tool_", ["a <tool_"]),
    (LLAMA3, "Plain {text}", ["Plain {text}"]),
    (LLAMA3, f'{{"name": "f", "parameters": {A}}}', [("f", A)]),
    (LLAMA3, f'<|python_tag|>{{"type": "function", "name": "f", "parameters": {A}}}', [("f", A)]),
    (LLAMA3, f'{{"name": "f", "parameters": {A}}}; {{"name": "g", "parameters": {{}}}}', [("f", A), ("g", "{}")]),
    (LLAMA3, '{"answer": 42}', ['{"answer": 42}']),
    (LLAMA3, '{"name": 42} yes', ['{"name": 42} yes']),
    (LLAMA3, '{"name": "f", "para', ['{"name": "f", "para']),
    (MISTRAL, "Plain [text]", ["Plain [text]"]),
    (MISTRAL, f'[TOOL_CALLS] [{{"name": "f", "arguments": {A}, "id": "abcdEF123"}}]', [("f", A)]),
    (
        MISTRAL,
        f'Well.[TOOL_CALLS][{{"name": "f", "arguments": {A}}}, {{"name": "g", "arguments": {{}}}}]',
        ["Well.", ("f", A), ("g", "{}")],
    ),
    (MISTRAL, f"[TOOL_CALLS]f[ARGS]{A}[TOOL_CALLS]g[CALL_ID]x1[ARGS]{{}}", [("f", A), ("g", "{}")]),
    (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": 1}] so', ['[TOOL_CALLS] [{"name": "f", "arguments": 1}] so']),
    (MISTRAL, "[TOOL_CALLS] no json", ["[TOOL_CALLS] no json"]),
    (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arg', ['[TOOL_CALLS] [{"name": "f", "arg']),
    (LFM2, "Plain [f(x=1)] <|tool", ["Plain [f(x=1)] <|tool"]),
    (
        LFM2,
        '<|tool_call_start|>[f(city="Pa\\"ris", n=1.5, on=True, off=false, l=[{"a": null}]), g()]<|tool_call_end|>So.',
        [("f", '{"city": "Pa\\"ris", "n": 1.5, "on": true, "off": false, "l": [{"a": null}]}'), ("g", "{}"), "So."],
    ),
    (LFM2, "<|tool_call_start|>[f(g())]<|tool_call_end|>", ["<|tool_call_start|>[f(g())]<|tool_call_end|>"]),
    (LFM2, '<|tool_call_start|>[f(a="x")]', [("f", '{"a": "x"}')]),
    (LFM2, r'<|tool_call_start|>[f(a="\d")]<|tool_call_end|>', [("f", r'{"a": "\\d"}')]),
    (LFM2, "<|tool_call_start|>[f(a=", ["<|tool_call_start|>[f(a="]),
    (GRANITE, f'<|tool_call|>[{{"name": "f", "arguments": {A}}}]', [("f", A)]),
]


@pytest.mark.parametrize(("dialect", "text", "expected"), CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_turns_are_parsed_alike_however_they_arrive(dialect: Dialect, text: str, expected: Parsed, size: int) -> None:
    assert parse(dialect, text, size) == expected


@pytest.mark.parametrize("dialect", [HERMES, MISTRAL])
def test_plain_text_is_not_kept_waiting(dialect: Dialect) -> None:
    parser = dialect.parser()
    assert list(parser.feed("Hello wor")) == ["Hello wor"]
    assert list(parser.feed("ld. ")) == ["ld."]


def test_a_json_answer_is_not_kept_waiting_once_its_first_key_is_no_calls() -> None:
    parser = LLAMA3.parser()
    assert list(parser.feed('{"answer')) == []
    assert list(parser.feed('": ')) == ['{"answer": ']


def test_each_call_comes_as_soon_as_it_is_complete() -> None:
    parser = MISTRAL.parser()
    begun, call = parser.feed('[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"na')
    assert isinstance(begun, CallBegun) and isinstance(call, ToolCall) and call.id == begun.id


@pytest.mark.parametrize(
    ("dialect", "begin", "end"),
    [
        (HERMES, '<tool_call>\n{"name": "f", ', '"arguments": {}}\n</tool_call>'),
        (LLAMA3, '{"name": "f", ', '"parameters": {}}'),
        (MISTRAL, '[TOOL_CALLS][{"name": "f", ', '"arguments": {}}]'),
        (GRANITE, '<|tool_call|>[{"name": "f", ', '"arguments": {}}]'),
        (MISTRAL_NAMED, "[TOOL_CALLS]f[ARGS]{", "}"),
        (LFM2, "<|tool_call_start|>[f(", ")]<|tool_call_end|>"),
    ],
)
def test_a_call_is_known_to_begin_as_soon_as_its_name_is_there(dialect: Dialect, begin: str, end: str) -> None:
    parser = dialect.parser()
    (begun,) = [piece for character in begin for piece in parser.feed(character)]
    assert isinstance(begun, CallBegun) and begun.name == "f"
    (call,) = [*parser.feed(end), *parser.finish()]
    assert isinstance(call, ToolCall) and (call.id, call.name, call.arguments) == (begun.id, "f", "{}")


def test_a_name_with_dashes_is_read_in_pythons_notation_too() -> None:
    (call,) = parse_calls("[get-the-time(zone='x-y')]")
    assert (call.name, call.arguments) == ("get-the-time", '{"zone": "x-y"}')


def test_deeply_nested_json_is_text() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": ' + "[" * 100_000 + "</tool_call>"
    assert "".join(str(piece) for piece in parse(HERMES, text, 50_000)) == text


def test_the_dialect_is_found_in_the_template(assets: Callable[[str], TextAssets]) -> None:
    expected = {
        "qwen2": HERMES,
        "qwen3": HERMES,
        "llama": LLAMA3,
        "mistral_swa": MISTRAL,
        "granite": GRANITE,
        "lfm2": LFM2,
    }
    for name, dialect in expected.items():
        template = assets(name).template
        assert template is not None and detect(template.source) is dialect, name
    assert detect("{{ messages[0].content }}") is None
    assert detect("{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]") is MISTRAL_NAMED


def test_what_a_template_prints_for_a_call_is_read_back(assets: Callable[[str], TextAssets]) -> None:
    for name in ("qwen2", "qwen3", "llama", "mistral_swa"):
        template = assets(name).template
        assert template is not None
        golden = (TextAssets, name)
        messages = [
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "abcdEF123", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}
                ],
            },
        ]
        text = template.render_raw(messages, None, add_generation_prompt=False)
        dialect = detect(template.source)
        assert dialect is not None, golden
        found = [piece for piece in parse(dialect, text[text.rindex(_start(dialect)) :], 1) if isinstance(piece, tuple)]
        assert [(call, json.loads(arguments)) for call, arguments in found] == [("f", {"a": "b"})]


def _start(dialect: Dialect) -> str:
    return '{"name"' if dialect is LLAMA3 else dialect.markers[0]


def test_calls_that_a_template_leaves_out_are_written_as_the_model_does() -> None:
    calls = [ToolCall("a", "f", '{"city": "Zü\\"rich", "n": 1.5, "on": true, "x": null}'), ToolCall("b", "g", "{}")]
    text = write_calls(calls)
    assert text == '<|tool_call_start|>[f(city="Zü\\"rich", n=1.5, on=True, x=None), g()]<|tool_call_end|>'
    read = parse_calls(text.removeprefix("<|tool_call_start|>").removesuffix("<|tool_call_end|>"))
    assert [(call.name, json.loads(call.arguments)) for call in read] == [
        (call.name, json.loads(call.arguments)) for call in calls
    ]


FRAGMENTS = (
    *("<tool_call>", "</tool_call>", "<tool", "[TOOL_CALLS]", "[TOOL", "[ARGS]", "<|python_tag|>", "<|tool_call|>"),
    *("<|tool_call_start|>", "<|tool_call_end|>", '{"name": "f", "arguments": {}}', "f(x=1)", '"name"', ":", '"', "\\"),
    *("{", "}", "[", "]", ", ", ";", "\n", " ", "word"),
)


@pytest.mark.parametrize("dialect", [HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, GRANITE, LFM2])
def test_no_text_is_lost_and_no_cut_matters_whatever_a_model_writes(dialect: Dialect) -> None:
    chance = random.Random(7)
    for _ in range(300):
        text = "".join(chance.choices(FRAGMENTS, k=chance.randint(1, 12)))
        whole = parse(dialect, text, len(text))
        assert parse(dialect, text, chance.randint(1, 9)) == whole, text
        if all(isinstance(piece, str) for piece in whole):
            assert "".join(map(str, whole)).strip() == text.strip()
