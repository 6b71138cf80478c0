"""Another narthex as an upstream: its tools, resources and prompts are also ours."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from grpc.aio import UnaryUnaryMultiCallable
from narthex.v1 import tool_pb2 as wire

from narthex_server.cascade import convert
from narthex_server.cascade.flight import Flight
from narthex_server.cascade.listing import Listing, listed
from narthex_server.cascade.watched import Watched
from narthex_server.cascade.wire import Identity, Wire
from narthex_server.errors import Unavailable
from narthex_server.tools.completion import Completion, PromptReference, Reference, Typed
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.reach import Reach
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.tool import CallContext, InputRequired, Tool, ToolEvent
from narthex_server.tools.upstream.kept import KeptServer
from narthex_server.tools.upstream.source import Narthex, ServerSource

PROTOCOL = "narthex.v1"

_NOTHING = wire.WatchToolsRequest()
_Sent = TypeVar("_Sent")
_Answer = TypeVar("_Answer")


class Cascade(KeptServer):
    """An UpstreamServer over the contract; on the event loop only.

    A server that reaches this one, or a call that has been here, is refused, so that there is no circle.
    """

    def __init__(self, source: ServerSource, narthex: Narthex, reach: Reach) -> None:
        super().__init__(source, None)  # the other server has a breaker for each of its upstreams
        self._narthex = narthex
        self._reach = reach
        self._listing = Listing()
        self._edition: Hashable = object()
        self._watched = Watched(source.name, source.call_seconds)
        self._turns = asyncio.Semaphore(source.concurrency)
        self._wire: Wire | None = None

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self._listing.tools

    @property
    def has_resources(self) -> bool:
        return True  # of its upstreams, which may know more than they list

    @property
    def resources(self) -> tuple[Resource, ...]:
        return self._listing.resources

    @property
    def templates(self) -> tuple[ResourceTemplate, ...]:
        return self._listing.templates

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self._listing.prompts

    def edition(self, context: CallContext) -> Hashable:
        """Where the other server is told who calls, it may answer each otherwise."""
        caller = (context.principal.name, context.principal.tenant) if self._narthex.delegate else None
        return self._keeper.status.since, self._edition, caller

    async def call(self, tool: str, arguments: dict[str, object], context: CallContext) -> AsyncGenerator[ToolEvent]:
        flight = Flight(self.name, self._other(), context, self._source.call_seconds)
        with self._keeper.passing(context):
            async with aclosing(flight.run(tool, arguments)) as events:
                async for event in events:
                    yield event

    async def read(self, uri: str, context: CallContext) -> Contents | InputRequired:
        other = self._other()
        request = wire.ReadResourceRequest(uri=uri, mcp=convert.mcp_context(context.mcp))
        found = await self._ask(other.tools.ReadResource, request, other, context)
        return self._wanted(found.input_required, context) or convert.contents(found)

    async def fill(self, prompt: str, arguments: dict[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        other = self._other()
        request = wire.GetPromptRequest(name=prompt, arguments=arguments, mcp=convert.mcp_context(context.mcp))
        found = await self._ask(other.tools.GetPrompt, request, other, context)
        return self._wanted(found.input_required, context) or convert.filled(found)

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        other = self._other()
        request = wire.CompleteRequest(argument=typed.argument, value=typed.value, context=dict(typed.known))
        if isinstance(reference, PromptReference):
            request.prompt = reference.name
        else:
            request.uri_template = reference.uri_template
        return convert.completion(await self._ask(other.tools.Complete, request, other, context))

    def watch(self, uris: frozenset[str], updated: Callable[[str], None]) -> None:
        self._watched.want(uris, updated)

    async def watching(self) -> None:
        await self._watched.settled()

    def _other(self) -> Wire:
        if self._wire is None or not self._keeper.up:
            raise self._keeper.unavailable()
        return self._wire

    async def _ask(
        self, method: UnaryUnaryMultiCallable[_Sent, _Answer], request: _Sent, other: Wire, context: CallContext
    ) -> _Answer:
        with self._keeper.passing(context):
            async with self._in_time(context) as seconds, self._turns:
                return await other.ask(method, request, other.metadata(context), max(seconds, 0.001))

    async def _connection(self) -> None:
        """One connection, from the first look at the other server until it is lost."""
        identity = Identity(self.name, self._reach.instance)
        other = Wire.opened(identity, self._narthex, self._secrets)
        watching: asyncio.Task[None] | None = None
        try:
            async with aclosing(other.stream(other.tools.WatchTools, _NOTHING, other.metadata())) as changes:
                async with self._starting():
                    before = await anext(changes, None)
                    await self._list(other)
                self._wire = other
                watching = asyncio.create_task(self._watched.run(other))
                self._keeper.ready(PROTOCOL)
                async for versions in changes:
                    if _lists(versions) != _lists(before):
                        async with self._starting():
                            await self._list(other)
                        self._keeper.ready(PROTOCOL)
                    before = versions
        finally:
            self._wire = None
            self._reach.shrink(self.name)
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await other.close()

    @asynccontextmanager
    async def _starting(self) -> AsyncGenerator[None]:
        limit = self._source.start_timeout
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError:
            raise Unavailable(f"did not answer within {limit:g} s") from None

    async def _list(self, other: Wire) -> None:
        listing = await listed(other, self._source.start_timeout)
        if not self._reach.extend(self.name, listing.instances):
            self._listing = Listing()
            raise Unavailable("reaches this server itself; its tools would be forwarded in a circle")
        self._listing = listing
        self._edition = object()

    def _wanted(self, wanted: wire.InputRequired, context: CallContext) -> InputRequired | None:
        if not wanted.requests and not wanted.HasField("request_state"):
            return None
        call_id = context.request_id if context.inputs is None else context.inputs.call_id
        return InputRequired(call_id, tuple(map(convert.request, wanted.requests)), convert.state(wanted))


def _lists(versions: wire.WatchToolsResponse | None) -> tuple[int, ...]:
    if versions is None:
        return ()
    return versions.catalog_version, versions.tools_version, versions.resources_version, versions.prompts_version
