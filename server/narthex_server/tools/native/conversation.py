"""Messages as tools take them, in OpenAI's form."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from narthex_server.text.messages import Message, ToolCall

_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_TOOL_CALL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
            "required": ["name", "arguments"],
        },
    },
    "required": ["function"],
}
MESSAGES: Mapping[str, Any] = {
    "type": "array",
    "minItems": 1,
    "description": "The conversation so far, oldest first",
    "items": {
        "type": "object",
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}, {"type": "null"}]},
            "name": {"type": "string"},
            "tool_calls": {"type": "array", "items": _TOOL_CALL},
            "tool_call_id": {"type": "string"},
        },
        "required": ["role"],
    },
}


def messages(values: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Messages that fit the schema above."""
    return tuple(
        Message(
            role=value["role"],
            content=_text(value.get("content")),
            tool_calls=tuple(
                ToolCall(call.get("id", ""), call["function"]["name"], call["function"]["arguments"])
                for call in value.get("tool_calls", ())
            ),
            tool_call_id=value.get("tool_call_id", ""),
            name=value.get("name", ""),
        )
        for value in values
    )


def _text(content: str | Sequence[Mapping[str, str]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content)


def parsed(arguments: bytes) -> dict[str, Any]:
    """Arguments that the catalog has checked already."""
    value: dict[str, Any] = json.loads(arguments or b"{}")
    return value
