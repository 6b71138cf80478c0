"""The calls of one request, side by side, each run as one by itself."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import cast

from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AbortError
from narthex.tracing.context import TRACE, TRACEPARENT, TRACESTATE
from narthex.v1 import tool_pb2 as wire

from narthex_server.errors import Violation
from narthex_server.pipelines.request import refuse
from narthex_server.principal import REQUEST_ID, REQUEST_ID_HEADER
from narthex_server.services.relay import Context, Handler, Relay, RelayedContext

MAX_CALLS = 128
AT_ONCE = 64
"""Calls of one batch that run at the same time."""

AT_ONCE_PER_SERVER = 16
"""Of them those of one upstream: one that is slow leaves the rest of the batch its room."""

MAX_UNSENT = 16
"""Events that wait to be sent; with more the calls wait, so that a slow reader does not fill the memory."""


class Batches:
    """Runs what CallTools brings."""

    def __init__(self, relay: Relay, handler: Handler, server_of: Callable[[str], str]) -> None:
        """`relay` has the guard that stands around each call, and the bounds; `server_of` finds a tool's upstream."""
        self._relay = relay
        self._handler = handler
        self._server_of = server_of

    async def serve(
        self, request: wire.CallToolsRequest, context: Context
    ) -> AsyncGenerator[wire.CallToolsResponse, None]:
        """The events of all calls as they come; its end, however it comes, cancels those that still run.

        Raises InvalidRequest for a batch that is none.
        """
        refuse(_violations(request))
        batch = _Batch(self._relay, self._handler, request, context)
        async with aclosing(batch.responses([self._server_of(call.name) for call in request.calls])) as responses:
            async for response in responses:
                yield response


class _Batch:
    def __init__(self, relay: Relay, handler: Handler, request: wire.CallToolsRequest, context: Context) -> None:
        self._relay = relay
        self._handler = handler
        self._request = request
        self._context = context
        self._events: asyncio.Queue[wire.CallToolsResponse | None] = asyncio.Queue(MAX_UNSENT)
        self._room = asyncio.Semaphore(AT_ONCE)
        self._server_room: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(AT_ONCE_PER_SERVER)
        )
        metadata = context.invocation_metadata() or ()
        trace = TRACE.get()  # of the batch: its calls are parts of it
        self._shared = (
            *((key, value) for key, value in metadata if key not in (REQUEST_ID_HEADER, TRACEPARENT, TRACESTATE)),
            *(trace.carried().items() if trace else ()),
        )

    async def responses(self, servers: list[str]) -> AsyncGenerator[wire.CallToolsResponse, None]:
        """`servers` are those of the calls, in their order."""
        tasks = [asyncio.create_task(self._run(index, server)) for index, server in enumerate(servers)]
        running = len(tasks)
        try:
            while running:
                event = await self._events.get()
                if event is None:
                    running -= 1
                else:
                    yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, index: int, server: str) -> None:
        async with self._server_room[server], self._room:
            failure = await self._failure(index)
        if failure is not None:
            await self._events.put(wire.CallToolsResponse(index=index, failure=failure))
        await self._events.put(None)

    async def _failure(self, index: int) -> wire.ToolFailure | None:
        """Runs the call; why it failed, if it did."""
        if (refusal := self._relay.crowded()) is not None:
            code, _ = StatusCode.RESOURCE_EXHAUSTED.value
            return wire.ToolFailure(code=code, reason=refusal.reason, message=refusal.message)
        call = self._request.calls[index]
        request = wire.CallToolRequest(
            name=call.name, arguments=call.arguments, call_id=call.call_id, options=self._request.options
        )
        metadata = (*self._shared, (REQUEST_ID_HEADER, f"{REQUEST_ID.get()}/{index}"))
        own = RelayedContext(metadata, self._context.time_remaining(), self._context.peer())
        context = cast(Context, own)
        guarded = self._relay.guard(self._handler(request, context, self._relay.max_event_bytes), context)
        try:
            async with self._counted(), aclosing(cast(AsyncGenerator[wire.CallToolResponse, None], guarded)) as events:
                async for event in events:
                    await self._events.put(wire.CallToolsResponse(index=index, event=event))
        except AbortError:
            return _failure(own.aborted())
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return _failure(own.cancelled())
        return None

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self._relay.working += 1
        try:
            yield
        finally:
            self._relay.working -= 1


def _failure(end: wire.RelayedEnd) -> wire.ToolFailure:
    status, info = status_pb2.Status.FromString(end.status), error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    known = next((code.name for code in StatusCode if code.value[0] == end.code), "UNKNOWN")
    return wire.ToolFailure(code=end.code, reason=info.reason or known, message=status.message)


def _violations(request: wire.CallToolsRequest) -> Iterator[Violation]:
    if not 1 <= len(request.calls) <= MAX_CALLS:
        yield Violation("calls", f"has {len(request.calls)} entries; a batch has 1 to {MAX_CALLS}")
