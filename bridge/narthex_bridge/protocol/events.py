"""What the server tells: the bridge's own form of the contract's messages."""

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
class InputRequest:
    """One thing wanted of the client: `sampling/createMessage`, `elicitation/create` or `roots/list`, and its params as
    a JSON object."""

    id: str
    method: str
    params: bytes


@dataclass(frozen=True, slots=True)
class InputRequired:
    """The client has to answer. With a `state` the call is over and is made again with it and the answers; without one
    it waits, under `call_id`."""

    call_id: str
    requests: tuple[InputRequest, ...]
    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a call; `content` is a JSON array of MCP content blocks, `structured` any JSON or empty."""

    content: bytes
    structured: bytes
    is_error: bool
    meta: bytes = b""


ToolEvent: TypeAlias = Progress | TextDelta | Log | InputRequired | Result


@dataclass(frozen=True, slots=True)
class Contents:
    """A resource, read: `parts` are MCP's resource contents, JSON objects."""

    parts: tuple[bytes, ...]
    meta: bytes = b""
    ttl_ms: int = 0


@dataclass(frozen=True, slots=True)
class Prompted:
    """A prompt, filled in: roles and content blocks (JSON objects)."""

    description: str
    messages: tuple[tuple[str, bytes], ...]
    meta: bytes = b""


@dataclass(frozen=True, slots=True)
class Suggestions:
    """Values for an argument, best first; `total` is None where it is not known."""

    values: tuple[str, ...]
    total: int | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the server lists it; schemas, annotations, icons and meta are JSON or empty, here and below."""

    name: str
    title: str
    description: str
    input_schema: bytes
    output_schema: bytes
    annotations: bytes
    icons: bytes = b""
    meta: bytes = b""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource; `size` is in bytes, None where it is not known."""

    uri: str
    name: str
    title: str
    description: str
    mime_type: str
    size: int | None
    annotations: bytes
    icons: bytes
    meta: bytes


@dataclass(frozen=True, slots=True)
class Template:
    """A family of resources (RFC 6570)."""

    uri_template: str
    name: str
    title: str
    description: str
    mime_type: str
    annotations: bytes
    icons: bytes
    meta: bytes


@dataclass(frozen=True, slots=True)
class PromptArgument:
    """What a prompt can be filled in with."""

    name: str
    title: str
    description: str
    required: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt; it has no annotations in MCP."""

    name: str
    title: str
    description: str
    arguments: tuple[PromptArgument, ...]
    icons: bytes
    meta: bytes
    annotations: bytes = b""


Listed: TypeAlias = Tool | Resource | Template | Prompt


@dataclass(frozen=True, slots=True)
class Versions:
    """Counts that grow with every change of a list."""

    tools: int
    resources: int
    prompts: int
