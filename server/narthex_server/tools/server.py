"""What the catalog needs of an upstream, whatever protocol it speaks."""

from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol, Self

from narthex_server.principal import Principal
from narthex_server.tools.audience import Audience
from narthex_server.tools.completion import Completion, Reference, Typed
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.tool import CallContext, InputRequired, Tool, ToolEvent

Scope = Literal["shared", "tenant", "session"]
"""Who shares a connection: all callers, those of a tenant, or the calls of one session of one caller."""


class ServerState(Enum):
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"


class BreakerState(Enum):
    """Whether calls reach an upstream: all, none, or one at a time to see whether it works again."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Vitals:
    """How an upstream has fared since it was added; moments in seconds since the epoch, 0 for never.

    `breaker` is None where it has none; it admits a call at `breaker_retry`, if that is not 0.
    """

    breaker: BreakerState | None = None
    breaker_retry: float = 0.0
    trips: int = 0
    reconnects: int = 0
    restarts: int = 0  # of its process, those that failed included
    failed_checks: int = 0
    last_success: float = 0.0  # of a call
    processes: tuple[int, ...] = ()  # of ours, below which all of its own are


def together(vitals: Iterable[Vitals]) -> Vitals:
    """Those of several connections as one: what happened to all of them, and the worst of their breakers."""
    all_of_them = list(vitals)
    worst = max(all_of_them, key=lambda one: _BADNESS.index(one.breaker))
    return Vitals(
        worst.breaker,
        worst.breaker_retry,
        sum(one.trips for one in all_of_them),
        sum(one.reconnects for one in all_of_them),
        sum(one.restarts for one in all_of_them),
        sum(one.failed_checks for one in all_of_them),
        max(one.last_success for one in all_of_them),
        tuple(pid for one in all_of_them for pid in one.processes),
    )


_BADNESS = (None, BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How an upstream is: `reason` says why it is not ready, or what is wrong although it is.

    `attempts` counts failed starts since it was ready last. `working_directory` is where its process runs, empty for
    one that is not ours. It has been in this state `since`, and is tried again at `next_attempt`, both in seconds since
    the epoch.
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
    server_name: str = ""  # as it calls itself
    server_version: str = ""
    since: float = 0.0
    next_attempt: float = 0.0


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

    @property
    def vitals(self) -> Vitals: ...

    def vitals_of(self, tenant: str) -> Vitals:
        """What of that this tenant may know: nothing of connections that are others'."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begins to connect; `changed` is called on the event loop when its status, or what it offers, is different."""

    async def settled(self) -> None:
        """Returns when an attempt to connect has ended, well or not, since the start or the last `reconnect`."""

    def reconnect(self, tenant: str | None = None) -> None:
        """Drops the connection, if there is one, and connects again at once; of several those of `tenant`, or all."""

    def end_session(self, principal: Principal, session: str) -> None:
        """This session of this caller is over, and what was kept for it can go."""

    async def drain(self, grace: float) -> None:
        """Returns when none of its calls runs any more, or after so many seconds."""

    async def stop(self) -> None:
        """Ends it; calls that still run raise Unavailable."""


class ToolServer(Server, Protocol):
    """A server of tools."""

    @property
    def tools(self) -> tuple[Tool, ...]: ...

    @property
    def cache(self) -> CacheRule | None:
        """Which results may be kept; None for none. It does not change."""

    def edition(self, context: CallContext) -> Hashable:
        """Equal for two calls only if one's result is as good as the other's.

        So it is where both are made on the same connection, for whoever has the same there, and the server has neither
        come anew in between nor told of other tools. Raises ResourceExhausted as a call would.
        """

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

    def vitals_of(self: Server, tenant: str) -> Vitals:
        return self.vitals

    def end_session(self, principal: Principal, session: str) -> None:
        pass
