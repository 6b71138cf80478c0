"""Calls of tools."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import cast

from narthex.v1 import lot_pb2 as lot
from narthex.v1 import tool_pb2 as wire

from narthex_server.errors import FailedPrecondition
from narthex_server.principal import CALLER
from narthex_server.services.relay import Context
from narthex_server.services.tool import ToolService
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.inputs import check_id


class CallToolWork:
    """As CallTool."""

    name = "call_tool"

    def __init__(self, service: ToolService, catalog: Catalog) -> None:
        self._service = service
        self._catalog = catalog

    def request(self, work: lot.Work) -> wire.CallToolRequest:
        call = work.call_tool
        return wire.CallToolRequest(
            name=call.name, arguments=call.arguments, call_id=call.call_id, answers_approvals=True
        )

    def parse(self, data: bytes) -> wire.CallToolRequest:
        return wire.CallToolRequest.FromString(data)

    def content(self, request: wire.CallToolRequest) -> Sequence[bytes]:
        return request.name.encode(), request.arguments, request.mcp.input_responses, request.mcp.request_state

    def settle(self, request: wire.CallToolRequest) -> None:
        """Nothing of it is drawn."""

    async def check(self, request: wire.CallToolRequest) -> bool:
        check_id(request.call_id)
        await self._catalog.check(request.name, request.arguments, CALLER.get())
        return self._catalog.repeatable(request.name, CALLER.get())

    def acted(self, request: wire.CallToolRequest, events: Sequence[wire.CallToolResponse]) -> bool:
        return True

    def run(self, request: wire.CallToolRequest, context: Context) -> AsyncGenerator[wire.CallToolResponse]:
        return cast(AsyncGenerator[wire.CallToolResponse], self._service.CallTool(request, context))

    def waits(self, event: wire.CallToolResponse) -> bool:
        return event.HasField("input_required") and not event.input_required.HasField("request_state")

    def results(self, events: Sequence[wire.CallToolResponse]) -> Iterator[wire.ToolResult]:
        """The result. Errors: FailedPrecondition where the call ended with a wish for input instead."""
        if not events or not events[-1].HasField("result"):
            raise FailedPrecondition(
                "the call ended with a wish for input, to be made again; its events have it", reason="INPUT_REQUIRED"
            )
        yield events[-1].result
