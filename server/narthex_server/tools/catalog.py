"""All tools under one roof: our own and those of the upstreams, listed and called by one name each."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal, Protocol, cast

from narthex.scopes import ALL_TOOLS

from narthex_server.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from narthex_server.principal import Principal
from narthex_server.tools.arguments import ArgumentSchema, parse_arguments
from narthex_server.tools.log_levels import LogLevels
from narthex_server.tools.names import aliases, distinct_name, exposed_name
from narthex_server.tools.server import ServerState, ServerStatus, ToolServer
from narthex_server.tools.tool import CallContext, InputRequired, NativeTool, Tool, ToolEvent, ToolResult

Outcome = Literal[
    "ok", "tool_error", "input_required", "invalid", "not_found", "unavailable", "deadline", "cancelled", "error"
]


class ToolObserver(Protocol):
    """Told of every call when it is over; `tool` and `server` are empty for a name that does not exist."""

    def on_call(self, tool: str, server: str, seconds: float, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    tool: Tool
    schema: ArgumentSchema
    native: NativeTool | None = None
    server: ToolServer | None = None
    own_name: str = ""  # what the server itself calls it


class Catalog:
    """The tools of this process; used on the event loop only.

    Native tools come first, then the upstreams' in the order of the configuration, each in the order its server gives.
    A name that is taken already gets a short hash of its origin, so that order decides who has the plain name.
    """

    def __init__(
        self,
        natives: Iterable[NativeTool] = (),
        servers: Iterable[ToolServer] = (),
        observer: ToolObserver | None = None,
    ) -> None:
        self._natives = {native.tool.name: native for native in natives}
        self._servers = {server.name: server for server in servers}
        self._observer = observer
        self._levels = LogLevels()
        self._entries: dict[str, _Entry] = {}
        self._aliases: dict[str, str] = {}
        self._listed: tuple[Tool, ...] = ()
        self._version = 1
        self._changed = asyncio.Event()
        self._refresh()

    @property
    def version(self) -> int:
        """Grows whenever `list` answers something else."""
        return self._version

    async def wait_changed(self, version: int) -> int:
        """Returns the version as soon as it is another than `version`."""
        while self._version == version:
            await self._changed.wait()
        return self._version

    async def start(self, patience: float = 5.0) -> None:
        """Connects all upstreams at once; returns when each is ready or has failed once, or after `patience` seconds.

        Nothing is raised for an upstream: its status says how it is, and it goes on trying.
        """
        for server in self._servers.values():
            server.start(self._refresh)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.gather(*(server.settled() for server in self._servers.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    def list(self, principal: Principal) -> tuple[Tool, ...]:
        """The tools that this caller can call now; those of an upstream that is down are left out."""
        if principal.tools == ALL_TOOLS:
            return self._listed
        return tuple(tool for tool in self._listed if principal.tools.allows(tool.name))

    def get(self, name: str, principal: Principal) -> Tool:
        """The tool of this name or alias, also while its upstream is down; raises as `call` does."""
        return self._find(name, principal).tool

    async def call(self, name: str, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        """Yields the call's events as they come, the last one a ToolResult, or an InputRequired with a state.

        Closing the iterator cancels the call. `arguments` is a JSON object. An error that the tool itself reports is a
        result with `is_error`.

        Raises:
            NotFound: no tool has this name, or its caller may not use it; the two cannot be told apart.
            InvalidToolArguments: the arguments do not fit; nothing was run.
            InvalidRequest: the upstream does not take the answers or the state of a call made again.
            FailedPrecondition: the tool needs an MCP client that can answer more than this caller does.
            Unavailable: the tool's upstream is down; the message says why.
            DeadlineExceeded: the deadline, or the upstream's own limit, has passed.
        """
        started = perf_counter()
        entry: _Entry | None = None
        outcome: Outcome = "cancelled"  # what a closed iterator and a cancelled task are
        try:
            entry = self._find(name, context.principal)
            parsed = parse_arguments(arguments)
            entry.schema.check(parsed)
            if entry.native is not None:
                events = entry.native.call(arguments or b"{}", context)
            else:
                assert entry.server is not None
                events = entry.server.call(entry.own_name, parsed, self._with_level(context, entry.server.name))
            async with aclosing(cast(AsyncGenerator[ToolEvent], events)):
                async for event in events:
                    if isinstance(event, ToolResult):
                        outcome = "tool_error" if event.is_error else "ok"
                    elif isinstance(event, InputRequired) and event.request_state is not None:
                        outcome = "input_required"
                    yield event
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            if self._observer is not None:
                tool, server = (entry.tool.name, entry.tool.server) if entry else ("", "")
                self._observer.on_call(tool, server, perf_counter() - started, outcome)

    def set_log_level(self, principal: Principal, level: str, server: str = "") -> None:
        """The least severe messages that the caller's calls get unless they say otherwise; raises NotFound."""
        self._levels.set(principal, level, self._server(server).name if server else "")

    def servers(self) -> tuple[ServerStatus, ...]:
        """How every upstream is, in the order of the configuration."""
        return tuple(server.status for server in self._servers.values())

    def add_native(self, native: NativeTool) -> None:
        """Adds a tool of our own, in place of one of the same name."""
        self._natives[native.tool.name] = native
        self._refresh()

    def remove_native(self, name: str) -> None:
        if self._natives.pop(name, None) is not None:
            self._refresh()

    async def add_server(self, server: ToolServer) -> ServerStatus:
        """Adds an upstream and returns how its first attempt went; raises InvalidRequest for a taken name."""
        if server.name in self._servers:
            raise InvalidRequest(f"there is an upstream named {server.name!r} already; remove it or use another name")
        self._servers[server.name] = server
        server.start(self._refresh)
        await server.settled()
        return server.status

    async def remove_server(self, name: str) -> None:
        """Stops the upstream and forgets its tools; raises NotFound."""
        server = self._server(name)
        del self._servers[name]
        self._refresh()
        await server.stop()

    async def reconnect(self, name: str) -> ServerStatus:
        """Makes the upstream connect again at once, and returns how that went; raises NotFound."""
        server = self._server(name)
        server.reconnect()
        await server.settled()
        return server.status

    def _with_level(self, context: CallContext, server: str) -> CallContext:
        if context.mcp.log_level is not None:
            return context
        return replace(context, mcp=replace(context.mcp, log_level=self._levels.get(context.principal, server)))

    def _server(self, name: str) -> ToolServer:
        if (server := self._servers.get(name)) is None:
            known = ", ".join(self._servers) or "none"
            raise NotFound(f"there is no upstream named {name!r}; there are: {known}", reason="UPSTREAM_NOT_FOUND")
        return server

    def _find(self, name: str, principal: Principal) -> _Entry:
        entry = self._entries.get(self._aliases.get(name, name))
        if entry is not None and principal.tools.allows(entry.tool.name):
            return entry
        # an upstream that never came up has no tools to know by name, yet "down" is the truth and "not found" is not
        for server in self._servers.values() if entry is None else ():
            own = _own_name(name, server) if server.status.state is not ServerState.READY else None
            if own is not None and principal.tools.allows(exposed_name(server.name, own, server.prefix)):
                raise Unavailable(
                    f"tool {name!r} cannot be called: upstream {server.name!r} is {server.status.state.value}"
                    + (f": {server.status.reason}" if server.status.reason else ""),
                    reason="UPSTREAM_UNAVAILABLE",
                    metadata={"upstream": server.name},
                )
        raise NotFound(f"there is no tool named {name!r}", reason="TOOL_NOT_FOUND", metadata={"tool": name[:200]})

    def _refresh(self) -> None:
        """Builds the tables again; cheap, as it happens only when an upstream changes."""
        before = self._entries
        entries: dict[str, _Entry] = {}
        other: dict[str, str] = {}
        for native in self._natives.values():
            entries[native.tool.name] = _entry(before, native.tool, native=native)
        for server in self._servers.values():
            for tool in server.tools:
                name = exposed_name(server.name, tool.name, server.prefix)
                if name in entries:
                    name = distinct_name(name, server.name, tool.name)
                if name in entries:
                    continue  # the server lists one tool twice
                shown = replace(tool, name=name, server=server.name)
                entries[name] = _entry(before, shown, server=server, own_name=tool.name)
                for alias in aliases(server.name, tool.name):
                    other.setdefault(alias, name)
        self._entries = entries
        self._aliases = {alias: name for alias, name in other.items() if alias not in entries}
        listed = tuple(
            e.tool for e in entries.values() if e.server is None or e.server.status.state is ServerState.READY
        )
        if listed != self._listed:
            self._listed = listed
            self._version += 1
            self._changed.set()
            self._changed = asyncio.Event()


def _entry(
    before: dict[str, _Entry],
    tool: Tool,
    native: NativeTool | None = None,
    server: ToolServer | None = None,
    own_name: str = "",
) -> _Entry:
    old = before.get(tool.name)
    same = old is not None and old.tool.input_schema == tool.input_schema
    schema = old.schema if old is not None and same else ArgumentSchema(tool.input_schema, tool.name)
    return _Entry(tool, schema, native, server, own_name)


def _own_name(name: str, server: ToolServer) -> str | None:
    """What the server would call the tool of this name or alias; None for a name that cannot be one of its tools."""
    heads = [exposed_name(server.name, ""), *aliases(server.name, "")]
    if server.prefix:
        heads.append(exposed_name(server.name, "", server.prefix))
    return next((name.removeprefix(head) for head in heads if name.startswith(head)), None)


def _outcome(error: Exception) -> Outcome:
    match error:
        case InvalidRequest() | FailedPrecondition():
            return "invalid"
        case NotFound():
            return "not_found"
        case Unavailable():
            return "unavailable"
        case DeadlineExceeded():
            return "deadline"
        case Cancelled():
            return "cancelled"
        case _:
            return "error"
