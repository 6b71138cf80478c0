"""What a running tool call tells: the bridge's own form of the contract's CallToolResponse."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the tool is, in its own unit; `total` is None where it does not know."""

    progress: float
    total: float | None
    message: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of generated text."""

    text: str


@dataclass(frozen=True, slots=True)
class Log:
    """A log record of the tool; `data` is JSON."""

    level: str
    logger: str
    data: bytes


@dataclass(frozen=True, slots=True)
class InputRequired:
    """The tool waits for input from the client."""


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a call; `content` is a JSON array of MCP content blocks, `structured` a JSON object or empty."""

    content: bytes
    structured: bytes
    is_error: bool


ToolEvent: TypeAlias = Progress | TextDelta | Log | InputRequired | Result


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the server lists it; schemas and annotations are JSON objects or empty."""

    name: str
    title: str
    description: str
    input_schema: bytes
    output_schema: bytes
    annotations: bytes
