"""All tools, resources and prompts under one roof: our own tools and what the upstreams have."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Literal, Protocol, TypeVar, cast

from narthex_server.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    UpstreamRefused,
)
from narthex_server.principal import Principal
from narthex_server.tools.arguments import ArgumentSchemas, parse_arguments
from narthex_server.tools.completion import Completion, PromptReference, Reference, TemplateReference, Typed
from narthex_server.tools.log_levels import LogLevels
from narthex_server.tools.offers.named import NamedOffers, Offer, Unlisted, not_found
from narthex_server.tools.offers.prompts import PromptOffers
from narthex_server.tools.offers.resources import Place, ResourceOffers, resource_not_found
from narthex_server.tools.offers.watches import Watches
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.server import ServerStatus, ToolServer, UpstreamServer
from narthex_server.tools.step import Invocation, Step, chained
from narthex_server.tools.tool import CallContext, InputRequired, NativeTool, Tool, ToolEvent, ToolResult
from narthex_server.tools.visibility import EVERYTHING, Visibility

AT_ONCE_BYTES = 32 * 1024
"""Arguments up to this are held against their schema right away; larger ones in a thread."""

Outcome = Literal[
    "ok", "tool_error", "input_required", "invalid", "denied", "not_found", "exhausted", "unavailable", "deadline",
    "cancelled", "error",
]  # fmt: skip


Kind = Literal["resource", "prompt", "completion"]
"""What is asked for beside tools."""

_Answer = TypeVar("_Answer")
_Shown = TypeVar("_Shown", Tool, Prompt, Resource, ResourceTemplate)


class Companion(Protocol):
    """Runs beside the catalog from its start to its stop."""

    async def follow(self, changed: Callable[[], None]) -> None:
        """Works without an end; `changed` is to be called when other things are visible to somebody."""


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
        visibility: Visibility = EVERYTHING,
        companions: Sequence[Companion] = (),
    ) -> None:
        """Every call passes the `steps` from the first to the last; each companion runs from start to stop."""
        self._natives = {native.tool.name: native for native in natives}
        self._servers = {server.name: server for server in servers}
        self._observer = observer
        self._run = chained(steps, self._serve)
        self._visibility = visibility
        self._companions = tuple(companions)
        self._running: list[asyncio.Task[None]] = []
        self._levels = LogLevels()
        self._schemas = ArgumentSchemas()
        self._tools: NamedOffers[Tool, ToolServer] = NamedOffers("tool", lambda server: server.tools)
        self.prompts = PromptOffers()
        self.resources = ResourceOffers()
        self.watches = Watches(self.resources.places)
        self._changed = asyncio.Event()
        self._shown = 0  # how often other things are visible
        self._refresh()

    @property
    def versions(self) -> Versions:
        """Each grows whenever its list is another."""
        lists = (self._tools.version, self.resources.version, self.prompts.version)
        return Versions(*(version + self._shown for version in lists))

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
        self._running = [asyncio.create_task(companion.follow(self.relist)) for companion in self._companions]
        for server in self._servers.values():
            server.start(self._refresh)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.gather(*(server.settled() for server in self._servers.values()))

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    def list(self, principal: Principal) -> tuple[Tool, ...]:
        """The tools that this caller can call now; those of an upstream that is down are left out."""
        return self._visible(self._tools.listed(principal.tools), principal)

    def get(self, name: str, principal: Principal) -> Tool:
        """The tool of this name or alias, also while its upstream is down; raises as `call` does."""
        return self._offer(name, principal).item

    def prompts_of(self, principal: Principal) -> tuple[Prompt, ...]:
        """The prompts that this caller can have now; those of an upstream that is down are left out."""
        return self._visible(self.prompts.list(principal), principal)

    def resources_of(self, principal: Principal) -> tuple[Resource, ...]:
        """As `prompts_of`, for resources."""
        return self._visible(self.resources.listed, principal)

    def templates_of(self, principal: Principal) -> tuple[ResourceTemplate, ...]:
        """As `prompts_of`, for families of resources."""
        return self._visible(self.resources.templates, principal)

    def watchable(self, uris: Iterable[str], principal: Principal) -> tuple[str, ...]:
        """Those of the URIs whose changes this caller may be told of: others never change for it."""
        may = partial(self._readable, principal=principal)
        return tuple(uri for uri in uris if all(map(may, self.resources.places(uri))))

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
            offer = self._offer(name, context.principal)
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
        may = partial(self._readable, principal=context.principal)
        return await self._observed("resource", self.resources.read(uri, server, context, may))

    async def fill(self, name: str, arguments: Mapping[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        """As PromptOffers.fill, observed."""
        return await self._observed("prompt", self._fill(name, arguments, context))

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        """Suggestions from the upstream that has the prompt or the template; raises NotFound, and as `call` does."""
        return await self._observed("completion", self._complete(reference, typed, context))

    def set_log_level(self, principal: Principal, level: str, server: str = "") -> None:
        """The least severe messages that the caller's calls get unless they say otherwise; raises NotFound."""
        self._levels.set(principal, level, self._server(server).name if server else "")

    def servers(self) -> tuple[ServerStatus, ...]:
        """How every upstream is, in the order of the configuration."""
        return tuple(server.status for server in self._servers.values())

    def working_directory(self, server: str) -> str:
        """The folder that the process of this upstream runs in; empty for one that is not ours, or not there."""
        known = self._servers.get(server)
        return known.status.working_directory if known is not None else ""

    def relist(self) -> None:
        """Other things are visible than before: tells those who watch the lists."""
        self._shown += 1
        self._tell()

    def add_native(self, native: NativeTool) -> None:
        """Adds a tool of our own, in place of one of the same name."""
        self._natives[native.tool.name] = native
        self._refresh()

    def remove_native(self, name: str) -> None:
        if self._natives.pop(name, None) is not None:
            self._refresh()

    async def add_server(self, server: UpstreamServer) -> ServerStatus:
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
                self._prompt(name, context.principal)
                server, own_name = self.prompts.owner(name, context.principal)
                return await self._servers[server.name].complete(PromptReference(own_name), typed, context)
            case TemplateReference(uri_template):
                place = self.resources.template_place(uri_template)
                if not self._readable(place, context.principal):
                    raise resource_not_found(uri_template)
                return await self._servers[place.server.name].complete(TemplateReference(place.uri), typed, context)

    async def _fill(
        self, name: str, arguments: Mapping[str, str], context: CallContext
    ) -> FilledPrompt | InputRequired:
        self._prompt(name, context.principal)
        return await self.prompts.fill(name, arguments, context)

    def _offer(self, name: str, principal: Principal) -> Offer[Tool, ToolServer]:
        """What a name means to this caller; raises NotFound, or Unavailable if that may be."""
        try:
            offer = self._tools.find(name, principal.tools)
        except Unlisted as error:
            tool = Tool(error.name, "", "", b"", server=error.server, own_name=error.own_name)
            if self._visibility.shows(tool, principal):
                raise
            raise not_found("tool", name) from None
        if not self._visibility.shows(offer.item, principal):
            raise not_found("tool", name)
        return offer

    def _prompt(self, name: str, principal: Principal) -> None:
        """Raises as `_offer` does, for a prompt."""
        try:
            prompt = self.prompts.get(name, principal)
        except Unlisted as error:
            prompt = Prompt(error.name, server=error.server, own_name=error.own_name)
            if self._visibility.shows(prompt, principal):
                raise
        if not self._visibility.shows(prompt, principal):
            raise not_found("prompt", name)

    def _readable(self, place: Place, principal: Principal) -> bool:
        return self._visibility.shows(Resource(place.uri, "", server=place.server.name), principal)

    def _visible(self, items: tuple[_Shown, ...], principal: Principal) -> tuple[_Shown, ...]:
        if self._visibility is EVERYTHING:
            return items
        return tuple(item for item in items if self._visibility.shows(item, principal))

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
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _outcome(error: Exception) -> Outcome:
    match error:
        case UpstreamRefused():
            return "error"
        case InvalidRequest() | FailedPrecondition():
            return "invalid"
        case PermissionDenied():
            return "denied"
        case NotFound():
            return "not_found"
        case ResourceExhausted():
            return "exhausted"
        case Unavailable():
            return "unavailable"
        case DeadlineExceeded():
            return "deadline"
        case Cancelled():
            return "cancelled"
        case _:
            return "error"
