"""A tool, a call of it, and what a call yields."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from narthex_server.principal import Principal
from narthex_server.tools.inputs import Inputs
from narthex_server.tools.mcp_context import PLAIN, McpContext


@dataclass(frozen=True, slots=True)
class Tool:
    """What a caller sees of a tool; schemas, annotations, icons and meta are JSON as the server gave it, or empty."""

    name: str
    title: str
    description: str
    input_schema: bytes
    output_schema: bytes = b""
    annotations: bytes = b""
    server: str = ""  # the upstream that owns it; empty for a native tool
    icons: bytes = b""
    meta: bytes = b""
    own_name: str = ""  # what its server calls it


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class CallContext:
    """Whose call this is; `deadline` is on the event loop's clock, in seconds.

    `session` is the caller's own name for one of its sessions, empty outside of any; two callers' never mean the same.
    Without `inputs` nobody can answer while it runs; with `answers_approvals` the caller answers ApprovalRequests.
    `upstream_tokens` are the caller's own, by upstream. `over` is to be called when its upstream has nothing more to do
    for it, which may be long before the caller has read all.
    """

    principal: Principal
    request_id: str
    deadline: float | None = None
    mcp: McpContext = PLAIN
    inputs: Inputs | None = None
    session: str = ""
    answers_approvals: bool = False
    upstream_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    over: Callable[[], None] = field(default=_nothing, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Progress:
    progress: float
    total: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """`level` as in RFC 5424 (debug … emergency); `data` is JSON."""

    level: str
    logger: str
    data: bytes


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of a native tool's text, before the result repeats it whole."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The end of a call: `content` is a JSON array of MCP content blocks, `structured_content` an object or empty."""

    content: bytes
    structured_content: bytes = b""
    is_error: bool = False
    meta: bytes = b""  # MCP's `_meta`, a JSON object, or empty
    faulted: bool = False  # the upstream broke, which is more than that the tool failed

    @property
    def size(self) -> int:
        """Of its JSON, in bytes."""
        return len(self.content) + len(self.structured_content) + len(self.meta)


@dataclass(frozen=True, slots=True)
class InputRequest:
    """What an upstream asks its client for: `sampling/createMessage` and the like, with params as JSON."""

    id: str
    method: str
    params: bytes


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A person's yes is wanted before the tool is called with these arguments; `reason` is who wants it, for people."""

    id: str
    name: str
    arguments: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class InputRequired:
    """The call waits for answers to all requests; with a `request_state` it is over instead, to be made again."""

    call_id: str
    requests: tuple[InputRequest | ApprovalRequest, ...]
    request_state: str | None = None


ToolEvent = Progress | Log | TextDelta | InputRequired | ToolResult


class NativeTool(Protocol):
    """A tool of our own; the events end with exactly one ToolResult, and nothing is asked."""

    @property
    def tool(self) -> Tool: ...

    def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]: ...
