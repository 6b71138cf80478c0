from narthex_server.agent.results import error_result, result_text
from narthex_server.tools.tool import ToolResult


def test_text_blocks_are_joined_and_others_named() -> None:
    content = (
        '[{"type": "text", "text": "é 1"}, {"type": "image", "mimeType": "image/png", "data": "x"},'
        '{"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},'
        '{"type": "resource_link", "uri": "file:///b", "name": "b"}, {"type": "new"}]'
    )
    assert (
        result_text(ToolResult(content.encode()))
        == "é 1\n[image image/png, 0 bytes]\ninside\n[resource file:///b]\n[new]"
    )


def test_structured_content_stands_in_for_missing_text() -> None:
    assert result_text(ToolResult(b"[]", b'{"a": 1}')) == '{"a": 1}'
    assert result_text(ToolResult(b"")) == ""


def test_errors_are_marked() -> None:
    assert result_text(error_result("no é")) == "Error: no é"
    assert result_text(ToolResult(b"[]", is_error=True)) == "Error: the tool failed without saying why"


def test_content_that_is_not_json_is_passed_on() -> None:
    assert result_text(ToolResult(b"plain")) == "plain"


def test_content_that_is_nested_too_deeply_is_passed_on() -> None:
    assert result_text(ToolResult(b"[" * 200_000)).startswith("[[[")
