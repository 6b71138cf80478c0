"""ToolService over the catalog."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from narthex.v1 import common_pb2 as common
from narthex.v1 import tool_pb2 as wire

from narthex_server.principal import CALLER, REQUEST_ID
from narthex_server.services.call import call_context, check_options
from narthex_server.services.complete import complete
from narthex_server.services.mcp_context import LOG_PREFIX, answers_of, input_required_to_wire, level_of
from narthex_server.services.paging import page
from narthex_server.services.relay import Context, Relay
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.inputs import RunningCalls
from narthex_server.tools.tool import InputRequired, Log, Progress, TextDelta, Tool, ToolEvent, ToolResult


@complete(wire.DESCRIPTOR.services_by_name["ToolService"])
class ToolService:
    """Lists, watches and calls tools; arguments and results pass through as bytes of JSON."""

    def __init__(self, catalog: Catalog, relay: Relay) -> None:
        self._catalog = catalog
        self._relay = relay
        self._running = RunningCalls()

    async def ListTools(self, request: wire.ListToolsRequest, context: Context) -> wire.ListToolsResponse:
        version = self._catalog.version
        tools = self._catalog.list(CALLER.get())
        shown, token = page(tools, lambda tool: f"{tool.server}/{tool.name}", request.page_size, request.page_token)
        return wire.ListToolsResponse(
            tools=[tool_to_wire(tool) for tool in shown], next_page_token=token, catalog_version=version
        )

    async def WatchTools(
        self, request: wire.WatchToolsRequest, context: Context
    ) -> AsyncIterator[wire.WatchToolsResponse]:
        while True:
            version = self._catalog.version
            yield wire.WatchToolsResponse(catalog_version=version)
            await self._catalog.wait_changed(version)

    async def CallTool(self, request: wire.CallToolRequest, context: Context) -> AsyncIterator[wire.CallToolResponse]:
        check_options(request.options)
        with self._running.enter(CALLER.get().tenant, request.call_id, REQUEST_ID.get()) as inputs:
            whose = replace(call_context(context, request.mcp), inputs=inputs)
            async with aclosing(self._catalog.call(request.name, request.arguments or b"{}", whose)) as events:
                async for event in events:
                    yield event_to_wire(event)

    async def Respond(self, request: wire.RespondRequest, context: Context) -> wire.RespondResponse:
        waiting = self._running.answer(CALLER.get().tenant, request.call_id, answers_of(request))
        return wire.RespondResponse(waiting=waiting)

    async def SetLogLevel(self, request: wire.SetLogLevelRequest, context: Context) -> wire.SetLogLevelResponse:
        self._catalog.set_log_level(CALLER.get(), level_of(request.level), request.server)
        return wire.SetLogLevelResponse()

    def RelayCalls(
        self, requests: AsyncIterator[wire.RelayCallsRequest], context: Context
    ) -> AsyncIterator[wire.RelayCallsResponse]:
        return self._relay.serve(self.CallTool, requests, context)


def tool_to_wire(tool: Tool) -> wire.Tool:
    return wire.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=tool.annotations,
        server=tool.server,
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
