"""ToolService over the catalog."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

from narthex.v1 import common_pb2 as common
from narthex.v1 import tool_pb2 as wire

from narthex_server.errors import NarthexError, ResourceExhausted, Violation
from narthex_server.pipelines.request import refuse
from narthex_server.principal import CALLER, REQUEST_ID, SESSION
from narthex_server.services.batch import Batches
from narthex_server.services.call import call_context, check_options
from narthex_server.services.complete import complete
from narthex_server.services.mcp_context import LOG_PREFIX, answers_of, input_required_to_wire, level_of
from narthex_server.services.offers import (
    completion_to_wire,
    contents_to_wire,
    filled_to_wire,
    prompt_to_wire,
    reference_from,
    resource_to_wire,
    template_to_wire,
)
from narthex_server.services.paging import page
from narthex_server.services.relay import Context, Relay
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.completion import Typed
from narthex_server.tools.inputs import RunningCalls
from narthex_server.tools.kept_results import KeptResults
from narthex_server.tools.offers.watches import ResourceUpdated
from narthex_server.tools.reach import Reach
from narthex_server.tools.resource import Contents, Part
from narthex_server.tools.tool import InputRequired, Log, Progress, TextDelta, Tool, ToolEvent, ToolResult

MAX_WATCHED = 1000
"""Resources that one call may watch."""


WATCH_PAUSE = 0.5
"""Seconds between two messages of one watch: changes in between are one, whichever upstreams they are of."""


class _Owned(Protocol):
    @property
    def server(self) -> str: ...


_Item = TypeVar("_Item", bound=_Owned)


@complete(wire.DESCRIPTOR.services_by_name["ToolService"])
class ToolService:
    """Lists, watches and asks for what the catalog has; arguments and results pass through as bytes of JSON."""

    def __init__(
        self,
        catalog: Catalog,
        relay: Relay,
        reach: Reach,
        running: RunningCalls | None = None,
        kept: KeptResults | None = None,
    ) -> None:
        """`running` are the calls that Respond answers, `kept` results are read like the resources of upstreams."""
        self._catalog = catalog
        self._relay = relay
        self._reach = reach
        self._running = running or RunningCalls()
        self._kept = kept or KeptResults()
        self._batches = Batches(relay, self._call, self._server_of)

    async def ListTools(self, request: wire.ListToolsRequest, context: Context) -> wire.ListToolsResponse:
        caller = CALLER.get()
        version = self._catalog.versions(caller).catalog
        tools = _of(self._catalog.list(caller), request.server) if request.server else self._catalog.listed(caller)
        shown, token = page(tools, lambda tool: f"{tool.server}/{tool.name}", request.page_size, request.page_token)
        return wire.ListToolsResponse(
            tools=[tool_to_wire(tool) for tool in shown],
            next_page_token=token,
            catalog_version=version,
            instances=self._reach.instances,
        )

    async def WatchTools(
        self, request: wire.WatchToolsRequest, context: Context
    ) -> AsyncIterator[wire.WatchToolsResponse]:
        loop = asyncio.get_running_loop()
        while True:
            told, versions = loop.time(), self._catalog.versions(CALLER.get())
            yield wire.WatchToolsResponse(
                catalog_version=versions.catalog,
                tools_version=versions.tools,
                resources_version=versions.resources,
                prompts_version=versions.prompts,
            )
            await self._catalog.wait_changed(CALLER.get(), versions.catalog)
            await asyncio.sleep(max(0.0, told + WATCH_PAUSE - loop.time()))

    def CallTool(self, request: wire.CallToolRequest, context: Context) -> AsyncIterator[wire.CallToolResponse]:
        return self._call(request, context, self._relay.max_event_bytes)

    def CallTools(self, request: wire.CallToolsRequest, context: Context) -> AsyncIterator[wire.CallToolsResponse]:
        return self._batches.serve(request, context)

    async def Respond(self, request: wire.RespondRequest, context: Context) -> wire.RespondResponse:
        waiting = self._running.answer(CALLER.get().tenant, request.call_id, answers_of(request))
        return wire.RespondResponse(waiting=waiting)

    async def SetLogLevel(self, request: wire.SetLogLevelRequest, context: Context) -> wire.SetLogLevelResponse:
        self._catalog.set_log_level(CALLER.get(), level_of(request.level), request.server)
        return wire.SetLogLevelResponse()

    async def EndSession(self, request: wire.EndSessionRequest, context: Context) -> wire.EndSessionResponse:
        self._catalog.end_session(CALLER.get(), SESSION.get())
        return wire.EndSessionResponse()

    def RelayCalls(
        self, requests: AsyncIterator[wire.RelayCallsRequest], context: Context
    ) -> AsyncIterator[wire.RelayCallsResponse]:
        return self._relay.serve(self._call, requests, context)

    async def ListResources(self, request: wire.ListResourcesRequest, context: Context) -> wire.ListResourcesResponse:
        found = _of(self._catalog.sight(CALLER.get()).resources, request.server)
        shown, token = page(found, lambda one: f"{one.server}/{one.uri}", request.page_size, request.page_token)
        return wire.ListResourcesResponse(resources=map(resource_to_wire, shown), next_page_token=token)

    async def ListResourceTemplates(
        self, request: wire.ListResourceTemplatesRequest, context: Context
    ) -> wire.ListResourceTemplatesResponse:
        found = _of(self._catalog.sight(CALLER.get()).templates, request.server)
        shown, token = page(
            found, lambda one: f"{one.server}/{one.uri_template}", request.page_size, request.page_token
        )
        return wire.ListResourceTemplatesResponse(
            resource_templates=map(template_to_wire, shown), next_page_token=token
        )

    async def ReadResource(self, request: wire.ReadResourceRequest, context: Context) -> wire.ReadResourceResponse:
        asked = call_context(context, request.mcp)
        if not request.server and self._kept.has(asked.principal, request.uri):
            text = self._kept.read(asked.principal, request.uri)
            whole = Contents((Part(request.uri, text, "text/plain"),))
            return contents_to_wire(await self._catalog.read_own(request.uri, whole, asked))
        return contents_to_wire(await self._catalog.read(request.uri, request.server, asked))

    async def WatchResources(
        self, request: wire.WatchResourcesRequest, context: Context
    ) -> AsyncIterator[wire.WatchResourcesResponse]:
        if len(request.uris) > MAX_WATCHED:
            refuse([Violation("uris", f"has {len(request.uris)} entries; at most {MAX_WATCHED} can be watched")])
        whose = call_context(context)
        with self._catalog.watches.open(request.uris, whose) as watch:
            await self._catalog.watches.ready(watch)
            yield wire.WatchResourcesResponse(catalog_version=self._catalog.versions(whose.principal).catalog)
            async for change in watch.changes():
                if isinstance(change, ResourceUpdated):
                    yield wire.WatchResourcesResponse(updated_uri=change.uri)
                else:
                    version = self._catalog.versions(whose.principal).catalog
                    yield wire.WatchResourcesResponse(catalog_version=version)

    async def ListPrompts(self, request: wire.ListPromptsRequest, context: Context) -> wire.ListPromptsResponse:
        found = _of(self._catalog.sight(CALLER.get()).prompts, request.server)
        shown, token = page(found, lambda one: f"{one.server}/{one.name}", request.page_size, request.page_token)
        return wire.ListPromptsResponse(prompts=map(prompt_to_wire, shown), next_page_token=token)

    async def GetPrompt(self, request: wire.GetPromptRequest, context: Context) -> wire.GetPromptResponse:
        asked = call_context(context, request.mcp)
        return filled_to_wire(await self._catalog.fill(request.name, request.arguments, asked))

    async def Complete(self, request: wire.CompleteRequest, context: Context) -> wire.CompleteResponse:
        typed = Typed(request.argument, request.value, dict(request.context))
        return completion_to_wire(await self._catalog.complete(reference_from(request), typed, call_context(context)))

    def _server_of(self, tool: str) -> str:
        """The upstream that has a tool; empty for our own and for those that the caller has not."""
        try:
            return self._catalog.get(tool, CALLER.get()).server
        except NarthexError:
            return ""

    async def _call(
        self, request: wire.CallToolRequest, context: Context, largest: int
    ) -> AsyncIterator[wire.CallToolResponse]:
        """Runs a call whose events may have `largest` bytes each; one of more ends it."""
        check_options(request.options, context)
        with self._running.enter(CALLER.get().tenant, request.call_id, REQUEST_ID.get()) as inputs:
            whose = call_context(context, request.mcp, inputs, request.answers_approvals)
            async with aclosing(self._catalog.call(request.name, request.arguments or b"{}", whose)) as events:
                async for event in events:
                    if isinstance(event, ToolResult):
                        _check_size(event.size, largest)  # before it is copied
                    response = event_to_wire(event)
                    _check_size(response.ByteSize(), largest)
                    yield response


def _check_size(size: int, largest: int) -> None:
    if size > largest:
        raise ResourceExhausted(
            f"An event of the call has {size} bytes; at most {largest} can be sent.",
            reason="MESSAGE_TOO_LARGE",
            metadata={"bytes": str(size), "max_bytes": str(largest)},
        )


def _of(items: Iterable[_Item], server: str) -> Sequence[_Item]:
    """Those of one server, or all."""
    return [item for item in items if not server or item.server == server]


def tool_to_wire(tool: Tool) -> wire.Tool:
    return wire.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=tool.annotations,
        server=tool.server,
        icons=tool.icons,
        meta=tool.meta,
    )


def event_to_wire(event: ToolEvent) -> wire.CallToolResponse:
    match event:
        case Progress(progress, total, message):
            return wire.CallToolResponse(progress=wire.Progress(progress=progress, total=total, message=message))
        case Log(level, logger, data):
            number = wire.LogLevel.Value(f"{LOG_PREFIX}{level.upper()}")
            return wire.CallToolResponse(log=wire.LogMessage(level=number, logger=logger, data=data))
        case TextDelta(text):
            return wire.CallToolResponse(text_delta=common.TextDelta(text=text))
        case InputRequired():
            return wire.CallToolResponse(input_required=input_required_to_wire(event))
        case ToolResult():
            return wire.CallToolResponse(result=result_to_wire(event))


def result_to_wire(result: ToolResult) -> wire.ToolResult:
    return wire.ToolResult(
        content=result.content,
        structured_content=result.structured_content,
        is_error=result.is_error,
        meta=result.meta,
    )
