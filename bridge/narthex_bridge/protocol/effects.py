"""What requests of MCP clients ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from narthex_bridge.protocol.eras import Era
from narthex_bridge.protocol.jsonrpc import Id


@dataclass(frozen=True, slots=True)
class Retry:
    """What a client brings when it repeats a request that wanted input: its answers, a JSON object by the names of what
    was asked, and the state it was given."""

    responses: bytes = b""
    state: str | None = None


FIRST = Retry()


@dataclass(frozen=True, slots=True)
class Initialize:
    """Open the session in this era; `capabilities` is what the client can do, a JSON object."""

    era: Era
    capabilities: bytes


@dataclass(frozen=True, slots=True)
class Discover:
    """Tell versions and capabilities."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with an empty object."""


@dataclass(frozen=True, slots=True)
class SetLogLevel:
    """Send log messages of this level and above from now on."""

    level: str


@dataclass(frozen=True, slots=True)
class List:
    """List what is of this kind (`tools`, `resources`, `templates`, `prompts`) from `cursor` on, which may be empty."""

    kind: str
    cursor: str


@dataclass(frozen=True, slots=True)
class CallTool:
    """Call a tool with the JSON object `arguments`; `token` is the client's progress token, if it gave one."""

    name: str
    arguments: bytes
    token: Id | None
    meta: bytes = b""
    retry: Retry = FIRST


@dataclass(frozen=True, slots=True)
class ReadResource:
    """Read a resource."""

    uri: str
    meta: bytes = b""
    retry: Retry = FIRST


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Tell from now on when this resource changes."""

    uri: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Tell no more."""

    uri: str


@dataclass(frozen=True, slots=True)
class GetPrompt:
    """Fill in a prompt."""

    name: str
    arguments: Mapping[str, str]
    meta: bytes = b""
    retry: Retry = FIRST


@dataclass(frozen=True, slots=True)
class Complete:
    """Suggest values for an argument, of a prompt or of a resource template."""

    prompt: str
    template: str
    argument: str
    value: str
    context: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Listen:
    """Tell on this request's stream of changes: of lists, by kind, and of resources, by URI."""

    kinds: tuple[str, ...]
    uris: tuple[str, ...]


Effect: TypeAlias = (
    Initialize
    | Discover
    | Ping
    | SetLogLevel
    | List
    | CallTool
    | ReadResource
    | Subscribe
    | Unsubscribe
    | GetPrompt
    | Complete
    | Listen
)
