"""All tools, resources and prompts under one roof: our own tools and what the upstreams have."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal, Protocol, TypeVar, cast

from narthex_server.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    Unavailable,
    UpstreamRefused,
)
from narthex_server.principal import Principal
from narthex_server.tools.arguments import ArgumentSchemas, parse_arguments
from narthex_server.tools.completion import Completion, PromptReference, Reference, TemplateReference, Typed
from narthex_server.tools.log_levels import LogLevels
from narthex_server.tools.offers.named import NamedOffers, Offer
from narthex_server.tools.offers.prompts import PromptOffers
from narthex_server.tools.offers.resources import ResourceOffers
from narthex_server.tools.offers.watches import Watches
from narthex_server.tools.prompt import FilledPrompt
from narthex_server.tools.resource import Contents
from narthex_server.tools.server import ServerStatus, ToolServer, UpstreamServer, Vitals
from narthex_server.tools.step import Invocation, Step, chained
from narthex_server.tools.tool import CallContext, InputRequired, NativeTool, Tool, ToolEvent, ToolResult

AT_ONCE_BYTES = 32 * 1024
"""Arguments up to this are held against their schema right away; larger ones in a thread."""

Outcome = Literal[
    "ok", "tool_error", "input_required", "invalid", "not_found", "unavailable", "deadline", "cancelled", "error"
]


Kind = Literal["resource", "prompt", "completion"]
"""What is asked for beside tools."""

_Answer = TypeVar("_Answer")


class CatalogObserver(Protocol):
    """Told of everything that was asked for when it is over."""

    def on_call(self, tool: str, server: str, seconds: float, outcome: Outcome) -> None:
        """`tool` and `server` are empty for a name that does not exist."""

    def on_request(self, kind: Kind, seconds: float, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Versions:
    """Of each list, and of all together."""

    tools: int
    resources: int
    prompts: int

    @property
    def catalog(self) -> int:
        return self.tools + self.resources + self.prompts


class Catalog:
    """The tools, `resources` and `prompts` of this process; used on the event loop only."""

    def __init__(
        self,
        natives: Iterable[NativeTool] = (),
        servers: Iterable[UpstreamServer] = (),
        observer: CatalogObserver | None = None,
        steps: Sequence[Step] = (),
    ) -> None:
        """Every call passes the `steps` from the first to the last."""
        self._natives = {native.tool.name: native for native in natives}
        self._servers = {server.name: server for server in servers}
        self._observer = observer
        self._run = chained(steps, self._serve)
        self._levels = LogLevels()
        self._schemas = ArgumentSchemas()
        self._tools: NamedOffers[Tool, ToolServer] = NamedOffers("tool", lambda server: server.tools)
        self.prompts = PromptOffers()
        self.resources = ResourceOffers()
        self.watches = Watches(self.resources.places)
        self._changed = asyncio.Event()
        self._refresh()

    @property
    def versions(self) -> Versions:
        """Each grows whenever its list is another."""
        return Versions(self._tools.version, self.resources.version, self.prompts.version)

    @property
    def version(self) -> int:
        """Grows whenever any of the lists is another."""
        return self.versions.catalog

    async def wait_changed(self, version: int) -> int:
        """Returns the version as soon as it is another than `version`."""
        while self.version == version:
            await self._changed.wait()
        return self.version

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
        return self._tools.listed(principal.tools)

    def get(self, name: str, principal: Principal) -> Tool:
        """The tool of this name or alias, also while its upstream is down; raises as `call` does."""
        return self._tools.find(name, principal.tools).item

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
        offer: Offer[Tool, ToolServer] | None = None
        outcome: Outcome = "cancelled"  # what a closed iterator and a cancelled task are
        try:
            offer = self._tools.find(name, context.principal.tools)
            invocation = Invocation(offer.item, arguments or b"{}", parse_arguments(arguments), context)
            async with aclosing(self._run(invocation)) as events:
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
                tool, server = (offer.item.name, offer.item.server) if offer else ("", "")
                self._observer.on_call(tool, server, perf_counter() - started, outcome)

    async def read(self, uri: str, server: str, context: CallContext) -> Contents | InputRequired:
        """As ResourceOffers.read, observed."""
        return await self._observed("resource", self.resources.read(uri, server, context))

    async def fill(self, name: str, arguments: Mapping[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        """As PromptOffers.fill, observed."""
        return await self._observed("prompt", self.prompts.fill(name, arguments, context))

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        """Suggestions from the upstream that has the prompt or the template; raises NotFound, and as `call` does."""
        return await self._observed("completion", self._complete(reference, typed, context))

    def set_log_level(self, principal: Principal, level: str, server: str = "") -> None:
        """The least severe messages that the caller's calls get unless they say otherwise; raises NotFound."""
        self._levels.set(principal, level, self._server(server).name if server else "")

    def vitals(self) -> Mapping[str, Vitals]:
        """How every upstream has fared."""
        return {server.name: server.vitals for server in self._servers.values()}

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

    def insert_server(self, server: UpstreamServer) -> None:
        """Adds an upstream, which begins to connect; raises AlreadyExists for a taken name."""
        if server.name in self._servers:
            raise AlreadyExists(
                f"there is an upstream named {server.name!r} already; remove it or use another name",
                reason="UPSTREAM_EXISTS",
                metadata={"upstream": server.name},
            )
        self._servers[server.name] = server
        server.start(self._refresh)

    async def add_server(self, server: UpstreamServer) -> ServerStatus:
        """As insert_server; returns how its first attempt went."""
        self.insert_server(server)
        await server.settled()
        return server.status

    async def remove_server(self, name: str, grace: float = 0.0) -> None:
        """Forgets its tools at once, and stops it when its calls have ended or after `grace` s; raises NotFound."""
        server = self._server(name)
        del self._servers[name]
        self._refresh()
        await _stop(server, grace)

    async def replace_server(self, server: UpstreamServer, grace: float) -> None:
        """Puts it in the place of the one of its name as soon as it is up, or has failed; that one is then removed."""
        server.start(self._refresh)
        before: UpstreamServer | None = None
        try:
            await server.settled()
            if (before := self._servers.get(server.name)) is not None:
                self._servers[server.name] = server
                self._refresh()
        finally:
            await (_stop(server, 0) if before is None else _stop(before, grace))

    def order_servers(self, names: Iterable[str]) -> None:
        """These come first, in this order."""
        first = {name: self._servers[name] for name in names if name in self._servers}
        self._servers = first | self._servers
        self._refresh()

    async def reconnect(self, name: str) -> ServerStatus:
        """Makes the upstream connect again at once, and returns how that went; raises NotFound."""
        server = self._server(name)
        server.reconnect()
        await server.settled()
        return server.status

    async def _serve(self, call: Invocation) -> AsyncGenerator[ToolEvent]:
        """The last step: the arguments are held against the schema, and the tool's owner runs it."""
        offer = self._tools.find(call.tool.name, call.context.principal.tools)
        schema = self._schemas.of(offer.item.name, offer.item.input_schema)
        if len(call.raw) <= AT_ONCE_BYTES:
            schema.check(call.arguments)
        else:  # takes seconds for megabytes, and others wait
            await asyncio.to_thread(schema.check, call.arguments)
        if offer.server is None:
            events = self._natives[offer.item.name].call(call.raw, call.context)
        else:
            context = self._with_level(call.context, offer.server.name)
            events = offer.server.call(offer.own_name, call.arguments, context)
        async with aclosing(cast(AsyncGenerator[ToolEvent], events)):
            async for event in events:
                yield event

    async def _complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        match reference:
            case PromptReference(name):
                server, own_name = self.prompts.owner(name, context.principal)
                return await self._servers[server.name].complete(PromptReference(own_name), typed, context)
            case TemplateReference(uri_template):
                place = self.resources.template_place(uri_template)
                return await self._servers[place.server.name].complete(TemplateReference(place.uri), typed, context)

    async def _observed(self, kind: Kind, answer: Awaitable[_Answer]) -> _Answer:
        started = perf_counter()
        outcome: Outcome = "cancelled"
        try:
            found = await answer
            outcome = "input_required" if isinstance(found, InputRequired) else "ok"
            return found
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            if self._observer is not None:
                self._observer.on_request(kind, perf_counter() - started, outcome)

    def _with_level(self, context: CallContext, server: str) -> CallContext:
        if context.mcp.log_level is not None:
            return context
        return replace(context, mcp=replace(context.mcp, log_level=self._levels.get(context.principal, server)))

    def _server(self, name: str) -> UpstreamServer:
        if (server := self._servers.get(name)) is None:
            known = ", ".join(self._servers) or "none"
            raise NotFound(f"there is no upstream named {name!r}; there are: {known}", reason="UPSTREAM_NOT_FOUND")
        return server

    def _refresh(self) -> None:
        """Builds the tables again; cheap, as it happens only when an upstream changes."""
        before = self.versions
        servers = tuple(self._servers.values())
        self._tools.refresh([native.tool for native in self._natives.values()], servers)
        self.prompts.refresh(servers)
        self.resources.refresh(servers)
        self.watches.refresh(servers, listed=self.resources.version != before.resources)
        if self.versions != before:
            self._changed.set()
            self._changed = asyncio.Event()


async def _stop(server: UpstreamServer, grace: float) -> None:
    try:
        await server.drain(grace)
    finally:
        await server.stop()


def _outcome(error: Exception) -> Outcome:
    match error:
        case UpstreamRefused():
            return "error"
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
