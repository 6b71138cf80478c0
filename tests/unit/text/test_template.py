from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.text.assets import TextAssets
from narthex_server.text.messages import Message, ToolCall, ToolSpec
from narthex_server.text.template import ChatTemplate

Read = Callable[[Path], dict[str, Any]]


def check(assets: TextAssets, cases: list[dict[str, Any]]) -> None:
    assert assets.template is not None
    for case in cases:
        arguments = {"add_generation_prompt": case["add_generation_prompt"], "options": case["kwargs"]}
        if case.get("error"):
            with pytest.raises(InvalidRequest, match=case["error"][:30]):
                assets.template.render_raw(case["messages"], case["tools"], **arguments)
            continue
        rendered = assets.template.render_raw(case["messages"], case["tools"], **arguments)
        assert rendered == case["rendered"], case["name"]
        assert assets.tokenizer.encode(rendered, add_special=False) == case["input_ids"], case["name"]


def test_renderings_are_those_of_the_reference_to_the_character(folder: Path, golden: Read) -> None:
    check(TextAssets.from_folder(folder), golden(folder)["chat"])


def test_templates_from_gguf_render_the_same(gguf_folder: Path, golden: Read, metadata: Read) -> None:
    check(TextAssets.from_gguf(metadata(gguf_folder)), golden(gguf_folder)["chat"])


def test_messages_and_tools_take_the_shape_that_templates_expect(folder: Path, golden: Read) -> None:
    template = TextAssets.from_folder(folder).template
    assert template is not None
    case = next(case for case in golden(folder)["chat"] if case["name"] == "tool_roundtrip")
    if case.get("error"):
        return
    call = ToolCall("abcdEF123", "get_weather", '{"city": "Paris", "unit": "celsius"}')
    messages = (
        Message("user", "Weather in Paris?"),
        Message("assistant", "", (call,)),
        Message("tool", '{"temp": 21.5}', tool_call_id="abcdEF123", name="get_weather"),
    )
    schema = (
        '{"type": "object", "properties": {"city": {"type": "string", "description": "City name"}, "unit": '
        '{"type": "string", "enum": ["celsius", "fahrenheit"]}}, "required": ["city"]}'
    )
    tool = ToolSpec("get_weather", "Get the weather for a city.", schema)
    assert template.render(messages, [tool], add_generation_prompt=case["add_generation_prompt"]) == case["rendered"]


def test_the_language_is_that_of_hugging_face() -> None:
    template = ChatTemplate(
        {
            "default": "{% generation %}{{ bos_token }}{% endgeneration %}\n"
            "{%- for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
            "{{ strftime_now('%Y') }}{{ unset_token }}{{ extra }}"
        },
        {"bos_token": "<s>"},
        now=lambda: datetime(2031, 2, 3),
    )
    rendered = template.render([Message("user", "<é> & 'x'"), Message("user", "no")], options={"extra": "!"})
    assert rendered == """<s>{"role": "user", "content": "<é> & 'x'"}2031!"""


def test_tool_use_template_is_taken_when_there_are_tools() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "{{ tools[0].function.name }}"})
    assert template.render([Message("user", "x")]) == "plain"
    assert template.render([Message("user", "x")], [ToolSpec("t", "", "")]) == "t"


def test_a_template_cannot_reach_python(folder: Path) -> None:
    template = ChatTemplate({"default": "{{ messages.__class__.__mro__ }}"})
    with pytest.raises(InvalidRequest):
        template.render([Message("user", "x")])


def test_what_a_template_cannot_render_is_the_requests_fault() -> None:
    template = ChatTemplate({"default": "{{ 'a' + messages[0].name }}{{ messages[5].content + 1 }}"})
    with pytest.raises(InvalidRequest, match="chat template"):
        template.render([Message("user", "x")])
    with pytest.raises(InvalidRequest, match="not a JSON object"):
        template.render([Message("user", "x")], [ToolSpec("t", "", "[]")])


def test_a_template_that_does_not_compile_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidModelFile, match="line 2"):
        ChatTemplate({"default": "a\n{% if %}"})


def test_turns_of_several_calls_are_told_one_by_one_to_templates_that_know_only_one(
    assets: Callable[[str], TextAssets],
) -> None:
    template = assets("llama").template
    assert template is not None
    calls = (ToolCall("a", "f", '{"n": 1}'), ToolCall("b", "g", '{"n": 2}'))
    answers = (Message("tool", "two", tool_call_id="b"), Message("tool", "one", tool_call_id="a"))
    rendered = template.render([Message("user", "x"), Message("assistant", "", calls), *answers])
    assert [rendered.index(part) for part in ('"f"', "one", '"g"', "two")] == sorted(
        rendered.index(part) for part in ('"f"', "one", '"g"', "two")
    )
    assert rendered.count("<|start_header_id|>ipython") == 2
