"""A conversation as the pipelines see it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a model asked for; `arguments` is a JSON object as text, exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is system, user, assistant or tool. A tool turn answers `tool_call_id`.

    `reasoning` is what an assistant thought before it spoke.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call; `parameters` is its JSON Schema as text, which arguments fit where `strict`."""

    name: str
    description: str
    parameters: str
    strict: bool = False
