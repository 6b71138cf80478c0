"""What the catalog needs of an upstream, whatever protocol it speaks."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol, Self

from narthex_server.principal import Principal
from narthex_server.tools.audience import Audience
from narthex_server.tools.completion import Completion, Reference, Typed
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.tool import CallContext, InputRequired, Tool, ToolEvent

Scope = Literal["shared", "tenant", "session"]
"""Who shares a connection: all callers, those of a tenant, or the calls of one session of one caller."""


class ServerState(Enum):
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How an upstream is: `reason` says why it is not ready, or what is wrong although it is.

    `attempts` counts failed starts since it was ready last. `working_directory` is where its process runs, empty for
    one that is not ours.
    """

    name: str
    transport: str
    state: ServerState
    reason: str = ""
    tools: int = 0
    protocol_version: str = ""
    attempts: int = 0
    scope: Scope = "shared"
    connections: int = 0  # that are up; an upstream that does not share one has several
    working_directory: str = ""


class Server(Protocol):
    """A server that may be down; it keeps itself running and says when anything about it changes.

    What it offers is under its own names for it, as last listed, and is kept while it is down. All that is asked of it
    raises Unavailable when it is down, or dies meanwhile, and DeadlineExceeded when the caller's time, or the server's
    own limit, is over.
    """

    @property
    def name(self) -> str: ...

    @property
    def presentation(self) -> Presentation:
        """How what it offers is named and shown; it does not change."""

    @property
    def tenants(self) -> Audience:
        """Who sees it; for all others it does not exist."""

    @property
    def status(self) -> ServerStatus: ...

    def seen_by(self, tenant: str) -> "UpstreamServer":
        """What it is to this tenant; the same to all for whom it offers the same."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begins to connect; `changed` is called on the event loop when its status, or what it offers, is different."""

    async def settled(self) -> None:
        """Returns when an attempt to connect has ended, well or not, since the start or the last `reconnect`."""

    def reconnect(self, tenant: str | None = None) -> None:
        """Drops the connection, if there is one, and connects again at once; of several those of `tenant`, or all."""

    def end_session(self, principal: Principal, session: str) -> None:
        """This session of this caller is over, and what was kept for it can go."""

    async def stop(self) -> None: ...


class ToolServer(Server, Protocol):
    """A server of tools."""

    @property
    def tools(self) -> tuple[Tool, ...]: ...

    def call(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncIterator[ToolEvent]:
        """Yields the call's events, the result last."""


class Line(Protocol):
    """A connection on which resources are watched."""

    def watch(self, uris: frozenset[str], updated: Callable[[str], None]) -> None:
        """From now on `updated` is told when one of these, or a part of one, may hold something else, and no others.

        So it is after a time without a connection.
        """

    async def watching(self) -> None:
        """Returns when all that is to be watched is, or cannot be for now."""


class ResourceServer(Server, Protocol):
    """A server of resources; it may know more of them than it lists."""

    @property
    def has_resources(self) -> bool: ...

    @property
    def resources(self) -> tuple[Resource, ...]: ...

    @property
    def templates(self) -> tuple[ResourceTemplate, ...]: ...

    async def read(self, uri: str, context: CallContext) -> Contents | InputRequired:
        """Raises NotFound for a URI that it does not know, and UpstreamRefused for its other errors."""

    def line(self, context: CallContext) -> Line:
        """Where this caller's resources are watched; raises ResourceExhausted where there are too many connections."""


class PromptServer(Server, Protocol):
    """A server of prompts."""

    @property
    def prompts(self) -> tuple[Prompt, ...]: ...

    async def fill(self, prompt: str, arguments: dict[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        """Raises InvalidRequest for arguments that do not fit, and UpstreamRefused for its other errors."""


class Completer(Server, Protocol):
    """A server that suggests values."""

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        """No suggestions where it has none to give."""


class UpstreamServer(ToolServer, ResourceServer, PromptServer, Completer, Protocol):
    """All that an MCP server can be."""


class SharedServer:
    """The manners of a server whose callers all share what it has: one connection, and nothing kept for a session."""

    def seen_by(self, tenant: str) -> Self:
        return self

    def line(self, context: CallContext) -> Self:
        return self

    def end_session(self, principal: Principal, session: str) -> None:
        pass
