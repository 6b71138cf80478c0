"""A conversation that the server keeps."""

from dataclasses import dataclass
from typing import Any

import orjson

from narthex_server.text.messages import Message, ToolCall


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a session is: a tenant's key."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A session without its messages; `size` in bytes, times in seconds since 1970.

    `unfinished` says that a model was to speak next.
    """

    id: str
    created: float
    used: float
    model: str = ""
    count: int = 0
    size: int = 0
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """All of it."""

    summary: Summary
    messages: tuple[Message, ...] = ()


def unfinished(messages: tuple[Message, ...]) -> bool:
    """Whether the model is to speak next: all that it asked for is answered."""
    if not messages or messages[-1].role == "assistant":
        return False
    answered: set[str] = set()
    for message in reversed(messages):
        if message.role == "assistant":
            return all(call.id in answered for call in message.tool_calls)
        answered.add(message.tool_call_id)
    return messages[-1].role == "user"


def dumped(messages: tuple[Message, ...]) -> bytes:
    """As JSON."""
    return orjson.dumps([_json(message) for message in messages])


def loaded(data: bytes) -> tuple[Message, ...]:
    """The messages of `dumped`."""
    return tuple(
        Message(**{**one, "tool_calls": tuple(ToolCall(*call) for call in one.get("tool_calls", ()))})
        for one in orjson.loads(data)
    )


def _json(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": _text(message.content)}
    if message.tool_calls:
        made["tool_calls"] = [(call.id, call.name, _text(call.arguments)) for call in message.tool_calls]
    for name in ("tool_call_id", "name", "reasoning"):
        if value := getattr(message, name):
            made[name] = _text(value)
    return made


def _text(text: str) -> str:
    """Without lone surrogates, which JSON cannot hold."""
    return text.encode("utf-8", "replace").decode()
