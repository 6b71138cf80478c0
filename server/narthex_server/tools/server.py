"""What the catalog needs of an upstream, whatever protocol it speaks."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from narthex_server.tools.tool import CallContext, Tool, ToolEvent


class ServerState(Enum):
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How an upstream is: `reason` says why it is not ready, `attempts` counts failed starts since it last was."""

    name: str
    transport: str
    state: ServerState
    reason: str = ""
    tools: int = 0
    protocol_version: str = ""
    attempts: int = 0


class ToolServer(Protocol):
    """A server of tools that may be down; it keeps itself running and says when anything about it changes."""

    @property
    def name(self) -> str: ...

    @property
    def prefix(self) -> str | None:
        """What stands before `_<tool>` in exposed names instead of `<server>__`; None for the usual form."""

    @property
    def status(self) -> ServerStatus: ...

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools last listed, under the server's own names; kept while it is down."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begins to connect; `changed` is called on the event loop whenever `status` or `tools` is different."""

    async def settled(self) -> None:
        """Returns when an attempt to connect has ended, well or not, since the start or the last `reconnect`."""

    def reconnect(self) -> None:
        """Drops the connection, if there is one, and connects again at once."""

    async def stop(self) -> None: ...

    def call(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncIterator[ToolEvent]:
        """Yields the call's events, the result last.

        Raises:
            Unavailable: the server is down, or died in the call.
            DeadlineExceeded: the time of the call, or the server's own limit, is over.
        """
