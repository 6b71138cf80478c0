"""All tools, resources and prompts under one roof: our own tools and what the upstreams have."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol, TypeVar, cast

from narthex_server.errors import (
    NarthexError,
)
from narthex_server.principal import Principal
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.arguments import ArgumentSchemas, parse_arguments
from narthex_server.tools.completion import Completion, PromptReference, Reference, TemplateReference, Typed
from narthex_server.tools.log_levels import LogLevels
from narthex_server.tools.names import Renamed
from narthex_server.tools.offers.inspection import Inspection
from narthex_server.tools.offers.named import Offer, not_found
from narthex_server.tools.offers.sight import Sight
from narthex_server.tools.offers.view import Shared, Versions, View
from narthex_server.tools.offers.views import Views
from narthex_server.tools.offers.watches import Watches
from narthex_server.tools.prompt import FilledPrompt
from narthex_server.tools.report import Admission, CallReport, CatalogObserver, Kind, Outcome, outcome_of, reason_of
from narthex_server.tools.resource import Contents
from narthex_server.tools.roster import Roster, named
from narthex_server.tools.search.searching import CALL, SEARCH, Searching
from narthex_server.tools.search.tools import CallTool, SearchTool
from narthex_server.tools.server import ServerStatus, ToolServer, UpstreamServer
from narthex_server.tools.step import Invocation, Step, Trail, chained
from narthex_server.tools.tool import CallContext, InputRequired, NativeTool, Tool, ToolEvent, ToolResult
from narthex_server.tools.visibility import EVERYTHING, Visibility

AT_ONCE_BYTES = 32 * 1024
"""Arguments up to this are held against their schema right away; larger ones in a thread."""

_Answer = TypeVar("_Answer")

OFF = Searching()


class Companion(Protocol):
    """Runs beside the catalog from its start to its stop."""

    async def follow(self, changed: Callable[[], None]) -> None:
        """Works without an end; `changed` is to be called when other things are visible to somebody."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for something beside tools."""

    kind: Kind
    name: str
    arguments: Mapping[str, str]
    context: CallContext


class Catalog:
    """The tools, resources and prompts of this process; used on the event loop only.

    Callers have what the `view` of their tenant has, and nothing else exists for them.
    """

    def __init__(
        self,
        natives: Iterable[NativeTool] = (),
        servers: Iterable[UpstreamServer] = (),
        observers: Sequence[CatalogObserver] = (),
        steps: Sequence[Step] = (),
        visibility: Visibility = EVERYTHING,
        companions: Sequence[Companion] = (),
        searching: Searching = OFF,
        inspection: Inspection | None = None,
        admission: Admission | None = None,
        locks: Locks = UNMETERED,
    ) -> None:
        """Every call passes the `steps` from the first to the last; each companion runs from start to stop.

        Without `admission` nothing is refused before the steps.
        """
        self._natives = {native.tool.name: native for native in natives}
        self.roster = Roster(servers, self._refresh)
        self._observers = tuple(observers)
        self._admission = admission
        self._run = chained(steps, self._serve)
        self._visibility = visibility
        self._companions = tuple(companions)
        self._running: list[asyncio.Task[None]] = []
        self._levels = LogLevels()
        self._schemas = ArgumentSchemas()
        self._searching = searching
        self._finders: dict[str, NativeTool] = {
            finder.tool.name: finder for finder in (SearchTool(self, locks), CallTool(self))
        }
        self._views = Views(Shared(inspection or Inspection(), self._found_by))
        self.watches = Watches(self.sight, lambda principal: self.versions(principal).resources)
        self._changed = asyncio.Event()
        self._relists = 0
        self._refresh()

    def view(self, principal: Principal) -> View:
        """What this caller's tenant can have; hold it no longer than until the next await."""
        return self._views.of(principal.tenant)

    def sight(self, principal: Principal) -> Sight:
        """What of that this caller itself has."""
        return Sight(self._views.of(principal.tenant), self._visibility, principal)

    @property
    def renamed(self) -> tuple[Renamed, ...]:
        """The tools that are not called what they would be, or that look like another, to anybody."""
        return self._views.renamed

    def versions(self, principal: Principal) -> Versions:
        """Each grows whenever that list of this caller's tenant is another."""
        now, more = self.view(principal).versions, self._relists
        return Versions(now.tools + more, now.resources + more, now.prompts + more) if more else now

    async def wait_changed(self, principal: Principal, version: int) -> int:
        """Returns the version of this caller's whole catalog as soon as it is another than `version`."""
        while (now := self.versions(principal).catalog) == version:
            await self._changed.wait()
        return now

    async def start(self, patience: float = 5.0) -> None:
        """Connects all upstreams at once; returns when each is ready or has failed once, or after `patience` seconds.

        Nothing is raised for an upstream: its status says how it is, and it goes on trying.
        """
        self._running = [asyncio.create_task(companion.follow(self.relist)) for companion in self._companions]
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.roster.start()

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.roster.stop()

    def list(self, principal: Principal) -> tuple[Tool, ...]:
        """The tools that this caller can call now; those of an upstream that is down are left out."""
        return self.sight(principal).tools

    def listed(self, principal: Principal) -> tuple[Tool, ...]:
        """What this caller is told of: all that it can call, or our own tools where it searches for the others."""
        tools = self.list(principal)
        return tuple(tool for tool in tools if not tool.server) if self._searches(principal, tools) else tools

    def offered(self, principal: Principal) -> tuple[Tool, ...]:
        """What a model is offered where nobody says which tools: the forwarded ones, or those that find them."""
        tools = self.list(principal)
        if self._searches(principal, tools):
            return tuple(tool for tool in tools if tool.name in (SEARCH, CALL) and not tool.server)
        return tuple(tool for tool in tools if tool.server)

    def get(self, name: str, principal: Principal) -> Tool:
        """The tool of this name or alias, also while its upstream is down; raises as `call` does."""
        return self.sight(principal).tool(name).item

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
            offer = self.sight(context.principal).tool(name)
            invocation = Invocation(offer.item, arguments or b"{}", parse_arguments(arguments), context, trail)
            async with aclosing(self._run(invocation)) as events:
                async for event in events:
                    if isinstance(event, ToolResult):
                        outcome = "tool_error" if event.is_error else "ok"
                        sent = event.size
                    elif isinstance(event, InputRequired) and event.request_state is not None:
                        outcome = "input_required"
                    yield event
        except Exception as error:
            outcome, reason = outcome_of(error), reason_of(error)
            raise
        finally:
            found = (offer.item.name, offer.item.server) if offer else ("", "")
            took = perf_counter() - started
            self._report(CallReport("tool", name, *found, arguments, context, trail, took, outcome, reason, sent))

    def refused(self, name: str, arguments: bytes, context: CallContext, error: NarthexError) -> None:
        """Reports a call that was refused before it came here, such as one of a tool that a model was not offered."""
        try:
            self._admit()
        except NarthexError as unrecordable:
            error = unrecordable
        known, end = self._known("tool", name, context.principal), (outcome_of(error), reason_of(error))
        self._report(CallReport("tool", name, *known, arguments, context, Trail(), 0.0, *end))

    async def read(self, uri: str, server: str, context: CallContext) -> Contents | InputRequired:
        """As ResourceOffers.read, observed."""
        asked = _Asked("resource", uri, {"server": server} if server else {}, context)
        return await self._observed(asked, self.sight(context.principal).read(uri, server, context))

    async def read_own(self, uri: str, contents: Contents, context: CallContext) -> Contents:
        """What this server itself has for the caller under a URI, observed as `read`."""

        async def given() -> Contents:
            return contents

        return await self._observed(_Asked("resource", uri, {}, context), given())

    async def fill(self, name: str, arguments: Mapping[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        """As PromptOffers.fill, observed."""
        asked = _Asked("prompt", name, arguments, context)
        return await self._observed(asked, self.sight(context.principal).fill(name, arguments, context))

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        """Suggestions from the upstream that has the prompt or the template; raises NotFound, and as `call` does."""
        name = reference.name if isinstance(reference, PromptReference) else reference.uri_template
        asked = _Asked("completion", name, {typed.argument: typed.value}, context)
        return await self._observed(asked, self._complete(reference, typed, context))

    def set_log_level(self, principal: Principal, level: str, server: str = "") -> None:
        """The least severe messages that the caller's calls get unless they say otherwise; raises NotFound."""
        self._levels.set(principal, level, named(server, self._seen_by(principal)).name if server else "")

    def servers(self, principal: Principal | None = None) -> tuple[ServerStatus, ...]:
        """How every upstream is that this caller sees, or all of them, in the order of the configuration."""
        return tuple(server.status for server in self._seen_by(principal))

    def end_session(self, principal: Principal, session: str) -> None:
        """This session of the caller is over: what upstreams keep for it goes, calls of it included."""
        for server in self.roster:
            server.end_session(principal, session)

    def relist(self) -> None:
        """Other things are visible than before: tells those who watch the lists."""
        self._relists += 1
        self.watches.refresh()
        self._tell()

    def add_native(self, native: NativeTool) -> None:
        """Adds a tool of our own, in place of one of the same name."""
        self._natives[native.tool.name] = native
        self._refresh()

    def remove_native(self, name: str) -> None:
        if self._natives.pop(name, None) is not None:
            self._refresh()

    async def reconnect(self, name: str, principal: Principal | None = None) -> ServerStatus:
        """Makes the upstream connect again at once, and returns how that went; raises NotFound.

        For a caller only the connections of its tenant, where it has its own.
        """
        server = named(name, self._seen_by(principal))
        server.reconnect(None if principal is None else principal.tenant)
        await server.settled()
        return server.status

    async def _serve(self, call: Invocation) -> AsyncGenerator[ToolEvent]:
        """The last step: the arguments are held against the schema, and the tool's owner runs it."""
        offer = self.sight(call.context.principal).tool(call.tool.name)
        if (offer.item.server, offer.item.own_name) != (call.tool.server, call.tool.own_name):
            raise not_found("tool", call.tool.name)  # the name means another one by now, which no step has judged
        schema = self._schemas.of(offer.item.name, offer.item.input_schema, offer.item.server)
        if len(call.raw) <= AT_ONCE_BYTES:
            schema.check(call.arguments)
        else:  # takes seconds for megabytes, and others wait
            await asyncio.to_thread(schema.check, call.arguments)
        if offer.server is None:
            events = self._native(offer.item.name).call(call.raw, call.context)
        else:
            context = self._with_level(call.context, offer.server.name)
            events = offer.server.call(offer.own_name, call.arguments, context)
        async with aclosing(cast(AsyncGenerator[ToolEvent], events)):
            async for event in events:
                yield event

    def _native(self, name: str) -> NativeTool:
        return self._natives.get(name) or self._finders[name]

    async def _complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        sight = self.sight(context.principal)
        match reference:
            case PromptReference(name):
                server, own_name = sight.prompt(name)
                return await self._owner(server.name).complete(PromptReference(own_name), typed, context)
            case TemplateReference(uri_template):
                place = sight.template(uri_template)
                return await self._owner(place.server.name).complete(TemplateReference(place.uri), typed, context)

    async def _observed(self, asked: _Asked, answer: Coroutine[Any, Any, _Answer]) -> _Answer:
        started = perf_counter()
        outcome: Outcome = "cancelled"
        reason = ""
        try:
            self._admit()
            found = await answer
            outcome = "input_required" if isinstance(found, InputRequired) else "ok"
            return found
        except Exception as error:
            outcome, reason = outcome_of(error), reason_of(error)
            raise
        finally:
            answer.close()  # it was never started where nothing was admitted
            kind, name, arguments, context = asked.kind, asked.name, asked.arguments, asked.context
            known = self._known(kind, name, context.principal, arguments.get("server", ""))
            took = perf_counter() - started
            self._report(CallReport(kind, name, *known, arguments, context, Trail(), took, outcome, reason))

    def _admit(self) -> None:
        if self._admission is not None:
            self._admission.enter()

    def _report(self, report: CallReport) -> None:
        for observer in self._observers:
            observer.on_call(report)

    def _known(self, kind: Kind, name: str, principal: Principal, server: str = "") -> tuple[str, str]:
        """What the catalog calls it and the upstream that has it; empty as far as that is not known to its caller.

        `server` is the one that a resource is asked of, empty for any.
        """
        sight = self.sight(principal)
        with suppress(NarthexError):
            match kind:
                case "tool":
                    tool = sight.tool(name).item
                    return tool.name, tool.server
                case "prompt":
                    return name, sight.prompt(name)[0].name
                case "resource" if server:
                    return name, named(server, self._seen_by(principal)).name
                case "resource":
                    return name, sight.template(name).server.name
        return "", ""

    def _with_level(self, context: CallContext, server: str) -> CallContext:
        if context.mcp.log_level is not None:
            return context
        mcp = context.mcp.at_level(self._levels.get(context.principal, server))
        return replace(context, mcp=mcp)

    def _searches(self, principal: Principal, tools: Iterable[Tool]) -> bool:
        """Whether the caller finds tools by searching; one whose scope lacks the search cannot."""
        return self._searching.lazy_for(principal.name) and any(
            tool.name == SEARCH and not tool.server for tool in tools
        )

    def _found_by(self, forwarded: int) -> tuple[Tool, ...]:
        """Our own tools that find others, where there are so many to find."""
        return tuple(one.tool for one in self._finders.values()) if self._searching.offered(forwarded) else ()

    def _seen_by(self, principal: Principal | None) -> Iterable[UpstreamServer]:
        """The upstreams that this caller sees, or all."""
        return self.roster if principal is None else self.view(principal).servers

    def _owner(self, name: str) -> UpstreamServer:
        return named(name, self.roster)

    def _refresh(self, only: UpstreamServer | None = None) -> None:
        """Builds the tables again, of those who see `only` this server, or of all."""
        natives = (native.tool for native in self._natives.values())
        changed = self._views.refresh(natives, self.roster, only)
        self.watches.refresh()
        if changed:
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
