"""The calls in flight on one connection."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from pydantic import TypeAdapter, ValidationError

from narthex_server.errors import DeadlineExceeded, InvalidToolArguments, Unavailable
from narthex_server.tools.tool import CallContext, Log, Progress, ToolEvent, ToolResult
from narthex_server.tools.upstream.convert import convert_result, dump, error_result
from narthex_server.tools.upstream.source import ServerSource

MAX_WAITING = 1000
"""Events that wait for a slow reader; later ones are dropped, the result never is."""

_AS_IT_CAME: TypeAdapter[Any] = TypeAdapter(dict[str, Any])

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Flight:
    tenant: str
    events: asyncio.Queue[ToolEvent | None] = field(default_factory=asyncio.Queue)

    def put(self, event: ToolEvent) -> None:
        if self.events.qsize() < MAX_WAITING:
            self.events.put_nowait(event)

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.put(Progress(progress, total, message or ""))


class Calls:
    """Runs calls on `client`, which the owner sets while it is connected."""

    def __init__(self, source: ServerSource) -> None:
        self._source = source
        self._turns = asyncio.Semaphore(source.concurrency)
        self._flights: set[_Flight] = set()
        self.client: Client | None = None

    def disconnect(self) -> None:
        self.client = None

    async def run(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncGenerator[ToolEvent]:
        """Yields what the server sends for this call, the result last; closing it cancels the call upstream.

        Raises:
            MCPError: the connection is lost.
            DeadlineExceeded, InvalidToolArguments, Unavailable: as ToolServer.call says.
        """
        flight = _Flight(context.principal.tenant)
        request = asyncio.create_task(self._request(flight, tool, arguments, context))
        request.add_done_callback(lambda _: flight.events.put_nowait(None))
        try:
            while (event := await flight.events.get()) is not None:
                yield event
            yield request.result()
        finally:
            if not request.done():
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)

    async def on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        """A log message names no call: it goes to all in flight if they are one tenant's, and to nobody otherwise."""
        if len({flight.tenant for flight in self._flights}) == 1:
            log = Log(params.level, params.logger or "", dump(params.data))
            for flight in self._flights:
                flight.put(log)

    async def _request(self, flight: _Flight, tool: str, arguments: dict[str, Any], context: CallContext) -> ToolResult:
        limit = self._source.call_timeout
        if context.deadline is not None:
            limit = min(limit, context.deadline - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(limit), self._turns:
                return await self._send(flight, tool, arguments)
        except TimeoutError:
            raise self._too_late(limit) from None

    async def _send(self, flight: _Flight, tool: str, arguments: dict[str, Any]) -> ToolResult:
        if self.client is None:
            raise MCPError(types.CONNECTION_CLOSED, "connection closed")
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=tool, arguments=arguments))
        self._flights.add(flight)
        try:
            raw = await self.client.session.send_request(request, _AS_IT_CAME, progress_callback=flight.on_progress)
        except MCPError as error:
            return self._refused(error)
        except ValidationError as error:
            _log.warning("upstream %s answered with what is not a result: %s", self._source.name, error)
            raise Unavailable(
                f"upstream {self._source.name!r} answered with what is not a tool result",
                reason="UPSTREAM_INVALID_RESULT",
                metadata={"upstream": self._source.name},
            ) from None
        finally:
            self._flights.discard(flight)
        return convert_result(raw)

    def _refused(self, error: MCPError) -> ToolResult:
        """A JSON-RPC error: about the connection, about the arguments, or the tool's own way to fail."""
        if error.code == types.CONNECTION_CLOSED or error.message == "Session terminated":
            raise error
        if error.code == types.REQUEST_TIMEOUT:
            raise self._too_late(self._source.call_timeout)
        if error.code == types.INVALID_PARAMS:
            raise InvalidToolArguments(error.message, metadata={"upstream": self._source.name})
        return error_result(f"{error.message} (JSON-RPC error {error.code} of upstream {self._source.name!r})")

    def _too_late(self, limit: float) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"upstream {self._source.name!r} did not answer within {max(limit, 0):g} s; the call was cancelled there",
            reason="UPSTREAM_DEADLINE_EXCEEDED",
            metadata={"upstream": self._source.name},
        )
