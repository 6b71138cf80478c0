"""ToolService over the catalog."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from narthex.v1 import common_pb2 as common
from narthex.v1 import tool_pb2 as wire

from narthex_server.principal import CALLER
from narthex_server.services.call import call_context, check_options
from narthex_server.services.complete import complete
from narthex_server.services.paging import page
from narthex_server.services.relay import Context, Relay
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.tool import Log, Progress, TextDelta, Tool, ToolEvent, ToolResult


@complete(wire.DESCRIPTOR.services_by_name["ToolService"])
class ToolService:
    """Lists, watches and calls tools; arguments and results pass through as bytes of JSON."""

    def __init__(self, catalog: Catalog, relay: Relay) -> None:
        self._catalog = catalog
        self._relay = relay

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
        events = self._catalog.call(request.name, request.arguments or b"{}", call_context(context))
        async with aclosing(events):
            async for event in events:
                yield event_to_wire(event)

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
            number = wire.LogLevel.Value(f"LOG_LEVEL_{level.upper()}")
            return wire.CallToolResponse(log=wire.LogMessage(level=number, logger=logger, data=data))
        case TextDelta(text):
            return wire.CallToolResponse(text_delta=common.TextDelta(text=text))
        case ToolResult():
            return wire.CallToolResponse(result=result_to_wire(event))


def result_to_wire(result: ToolResult) -> wire.ToolResult:
    return wire.ToolResult(
        content=result.content, structured_content=result.structured_content, is_error=result.is_error
    )
