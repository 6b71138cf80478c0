"""A chat's messages."""

from collections.abc import Mapping
from types import MappingProxyType

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import Fields
from narthex_bridge.faces.openai.parts import content, plain

ROLES: Mapping[str, wire.Role.ValueType] = MappingProxyType(
    {
        "system": wire.ROLE_SYSTEM,
        "developer": wire.ROLE_SYSTEM,
        "user": wire.ROLE_USER,
        "assistant": wire.ROLE_ASSISTANT,
        "tool": wire.ROLE_TOOL,
    }
)


def messages(fields: Fields) -> list[wire.ChatMessage]:
    """Of `messages`; mistral.rs' string is one message of the user's."""
    if isinstance(text := fields.any("messages"), str):
        return [wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text=text)])]
    found: list[wire.ChatMessage] = []
    names: dict[str, str] = {}
    for message in fields.objects("messages"):
        made = _message(message)
        names.update((call.id, call.name) for call in made.tool_calls)
        if made.role == wire.ROLE_TOOL and not made.name:
            made.name = names.get(made.tool_call_id, "")  # some templates want it, and OpenAI's messages lack it
        found.append(made)
    return found


def _message(message: Fields) -> wire.ChatMessage:
    role = message.one_of("role", *ROLES)
    if role is None:
        raise message.fault("role", "is missing")
    return wire.ChatMessage(
        role=ROLES[role],
        content=content(message),
        tool_calls=[_call(call) for call in message.objects("tool_calls")],
        tool_call_id=message.needed_text("tool_call_id") if role == "tool" else "",
        name=message.text("name") or "",
        reasoning=_thoughts(message) if role == "assistant" else "",
    )


def _thoughts(message: Fields) -> str:
    return plain(message, "reasoning_content") or message.text("reasoning") or ""


def _call(call: Fields) -> wire.ToolCall:
    function = call.object("function")
    if function is None:
        raise call.fault("function", "is missing; calls of other types are not supported here")
    return wire.ToolCall(
        id=call.needed_text("id"),
        name=function.needed_text("name"),
        arguments=(function.text("arguments") or "{}").encode(),
    )
