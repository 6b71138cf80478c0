"""All tools, resources and prompts under one roof: our own tools and what the upstreams have."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar, cast

from narthex_server.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NarthexError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
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
from narthex_server.tools.report import Admission, CallReport, CatalogObserver, Kind, Outcome
from narthex_server.tools.resource import Contents
from narthex_server.tools.server import ServerStatus, ToolServer, UpstreamServer
from narthex_server.tools.step import Invocation, Step, Trail, chained
from narthex_server.tools.tool import CallContext, InputRequired, NativeTool, Tool, ToolEvent, ToolResult

AT_ONCE_BYTES = 32 * 1024
"""Arguments up to this are held against their schema right away; larger ones in a thread."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Versions:
    """Of each list, and of all together."""

    tools: int
    resources: int
    prompts: int

    @property
    def catalog(self) -> int:
        return self.tools + self.resources + self.prompts


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for something beside tools."""

    kind: Kind
    name: str
    arguments: Mapping[str, str]
    context: CallContext


class Catalog:
    """The tools, `resources` and `prompts` of this process; used on the event loop only."""

    def __init__(
        self,
        natives: Iterable[NativeTool] = (),
        servers: Iterable[UpstreamServer] = (),
        observers: Sequence[CatalogObserver] = (),
        steps: Sequence[Step] = (),
        admission: Admission | None = None,
    ) -> None:
        """Every call passes the `steps` from the first to the last; without `admission` nothing is refused before."""
        self._natives = {native.tool.name: native for native in natives}
        self._servers = {server.name: server for server in servers}
        self._observers = tuple(observers)
        self._admission = admission
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
        reason, sent, trail = "", 0, Trail()
        try:
            self._admit()
            offer = self._tools.find(name, context.principal.tools)
            invocation = Invocation(offer.item, arguments or b"{}", parse_arguments(arguments), context, trail)
            async with aclosing(self._run(invocation)) as events:
                async for event in events:
                    if isinstance(event, ToolResult):
                        outcome = "tool_error" if event.is_error else "ok"
                        sent = len(event.content) + len(event.structured_content) + len(event.meta)
                    elif isinstance(event, InputRequired) and event.request_state is not None:
                        outcome = "input_required"
                    yield event
        except Exception as error:
            outcome, reason = _outcome(error), _reason(error)
            raise
        finally:
            found = (offer.item.name, offer.item.server) if offer else ("", "")
            took = perf_counter() - started
            self._tell(CallReport("tool", name, *found, arguments, context, trail, took, outcome, reason, sent))

    def refused(self, name: str, arguments: bytes, context: CallContext, error: NarthexError) -> None:
        """Reports a call that was refused before it came here, such as one of a tool that a model was not offered."""
        found = _outcome(error), _reason(error)
        self._tell(CallReport("tool", name, "", "", arguments, context, Trail(), 0.0, *found))

    async def read(self, uri: str, server: str, context: CallContext) -> Contents | InputRequired:
        """As ResourceOffers.read, observed."""
        asked = _Asked("resource", uri, {"server": server} if server else {}, context)
        return await self._observed(asked, self.resources.read(uri, server, context))

    async def fill(self, name: str, arguments: Mapping[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        """As PromptOffers.fill, observed."""
        asked = _Asked("prompt", name, arguments, context)
        return await self._observed(asked, self.prompts.fill(name, arguments, context))

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        """Suggestions from the upstream that has the prompt or the template; raises NotFound, and as `call` does."""
        name = reference.name if isinstance(reference, PromptReference) else reference.uri_template
        asked = _Asked("completion", name, {typed.argument: typed.value}, context)
        return await self._observed(asked, self._complete(reference, typed, context))

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
                server, own_name = self.prompts.owner(name, context.principal)
                return await self._servers[server.name].complete(PromptReference(own_name), typed, context)
            case TemplateReference(uri_template):
                place = self.resources.template_place(uri_template)
                return await self._servers[place.server.name].complete(TemplateReference(place.uri), typed, context)

    async def _observed(self, asked: "_Asked", answer: Coroutine[Any, Any, _Answer]) -> _Answer:
        started = perf_counter()
        outcome: Outcome = "cancelled"
        reason = ""
        try:
            self._admit()
            found = await answer
            outcome = "input_required" if isinstance(found, InputRequired) else "ok"
            return found
        except Exception as error:
            outcome, reason = _outcome(error), _reason(error)
            raise
        finally:
            answer.close()  # it was never started where nothing was admitted
            server = self._server_of(asked)
            known = asked.name if server else ""
            took, trail = perf_counter() - started, Trail()
            self._tell(
                CallReport(
                    asked.kind, asked.name, known, server, asked.arguments, asked.context, trail, took, outcome, reason
                )
            )

    def _admit(self) -> None:
        if self._admission is not None:
            self._admission.enter()

    def _tell(self, report: CallReport) -> None:
        for observer in self._observers:
            observer.on_call(report)

    def _server_of(self, asked: "_Asked") -> str:
        """The upstream that is asked, as far as its name can be told; empty otherwise."""
        try:
            match asked.kind:
                case "resource":
                    return self.resources.holder(asked.name, asked.arguments.get("server", ""))
                case "prompt":
                    return self.prompts.owner(asked.name, asked.context.principal)[0].name
        except NarthexError:
            pass
        return ""

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


def _outcome(error: Exception) -> Outcome:
    match error:
        case UpstreamRefused():
            return "error"
        case InvalidRequest() | FailedPrecondition():
            return "invalid"
        case PermissionDenied() | Unauthenticated():
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


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, NarthexError) else "INTERNAL"
