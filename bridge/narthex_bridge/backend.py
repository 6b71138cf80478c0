"""The server's tools, seen through its public contract."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from narthex.v1 import tool_pb2, tool_pb2_grpc

from narthex_bridge.caller import Caller
from narthex_bridge.connection import Connection, internal
from narthex_bridge.protocol.events import InputRequired, Log, Progress, Result, TextDelta, Tool, ToolEvent
from narthex_bridge.protocol.methods import LOG_LEVELS
from narthex_bridge.relay import Relay

logger = logging.getLogger(__name__)

WATCH_RETRY_S = (0.1, 5.0)


class Backend:
    """ToolService over the connection; every failure of a call is a BackendError fit for clients."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tools = tool_pb2_grpc.ToolServiceStub(connection.channel)
        self._relay = Relay(connection)

    async def list_tools(self, caller: Caller, request_id: str, cursor: str) -> tuple[tuple[Tool, ...], str]:
        """A page of the tools this caller may call, and the cursor of the next one (empty at the end)."""
        request = tool_pb2.ListToolsRequest(page_token=cursor)
        page = await self._connection.ask(self._tools.ListTools, request, caller, request_id)
        return tuple(map(_tool, page.tools)), page.next_page_token

    async def call_tool(
        self, caller: Caller, request_id: str, name: str, arguments: bytes
    ) -> AsyncGenerator[ToolEvent, None]:
        """The events of a call, the last of them its Result; closing the iterator cancels the call at once."""
        request = tool_pb2.CallToolRequest(name=name, arguments=arguments)
        result: Result | None = None
        async with aclosing(self._relay.call(request, caller, request_id)) as responses:
            async for response in responses:
                event = _event(response)
                if isinstance(event, Result):
                    result = event  # read on to the status: a call left here would count as cancelled
                elif event is not None:
                    yield event
        if result is None:
            raise internal("The tool call ended without a result", request_id)
        yield result

    async def close(self) -> None:
        """Ends the streams that calls share; those in flight become UNAVAILABLE."""
        await self._relay.close()

    async def watch(self) -> AsyncIterator[bool]:
        """True whenever the catalog is there or has changed, False whenever the server is lost; reconnects for ever."""
        delay, longest = WATCH_RETRY_S
        watched = False
        while True:
            call = self._tools.WatchTools(tool_pb2.WatchToolsRequest(), metadata=self._connection.metadata(None, ""))
            try:
                async for _ in call:
                    delay, watched = WATCH_RETRY_S[0], True
                    yield True
            except grpc.aio.AioRpcError as error:
                # Before the first success the server is still starting; after that, each loss is told once.
                level = logging.INFO if watched else logging.DEBUG
                logger.log(level, "the server's catalog cannot be watched: %s %s", error.code().name, error.details())
                watched = False
            finally:
                call.cancel()
            yield False
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)


def _tool(tool: tool_pb2.Tool) -> Tool:
    return Tool(tool.name, tool.title, tool.description, tool.input_schema, tool.output_schema, tool.annotations)


def _event(response: tool_pb2.CallToolResponse) -> ToolEvent | None:
    match response.WhichOneof("event"):
        case "text_delta":
            return TextDelta(response.text_delta.text)
        case "progress":
            progress = response.progress
            return Progress(progress.progress, progress.total if progress.HasField("total") else None, progress.message)
        case "log":
            return Log(LOG_LEVELS[max(response.log.level - 1, 0)], response.log.logger, response.log.data)
        case "input_required":
            return InputRequired()
        case "result":
            result = response.result
            return Result(result.content, result.structured_content, result.is_error)
        case _:
            return None  # an event of a newer contract
