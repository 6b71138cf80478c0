"""Tool calls over a few lasting streams, as opening a stream for each costs more than a short call does."""

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
from narthex.tracing.context import TRACE
from narthex.v1 import tool_pb2, tool_pb2_grpc

from narthex_bridge.caller import Caller
from narthex_bridge.protocol.failures import BackendError, default_text
from narthex_bridge.server.connection import Connection, failure, from_status
from narthex_bridge.upstream_tokens import current

logger = logging.getLogger(__name__)

STREAMS = 4
"""Streams to one server at most: a large event on one does not hold up the calls on the others."""

BUSY = 32
"""Calls on every stream before there is one more: the more calls share a stream, the more share a message."""

LARGE_BYTES = 64 * 1024
"""Requests beyond this go by a stream of their own, and hold up nobody."""

BATCH_BYTES = 32 * 1024
"""Up to so many bytes of actions share a message; a larger action has one of its own."""

WINDOW_BYTES = 64 * 1024
"""What a call may have under way to a reader that lags, as for a stream of its own."""

RETRY_S = 60.0
"""How long a server that relays nothing is not asked again."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_REFUSED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED})
_NOT_OFFERED = frozenset({grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED})


class NotOffered(Exception):
    """The server is older than relaying, or the bridge's credential may not call for others."""


class Relay:
    """ToolService.CallTool for callers of the bridge, relayed where the server offers it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tools = tool_pb2_grpc.ToolServiceStub(connection.channel)
        self._streams: list[_Stream] = []
        self._numbers = itertools.count(1)
        # Events that the server sends together have to fit; see the contract.
        self._offered_at = 0.0 if connection.max_message_bytes >= 2 * BATCH_BYTES else math.inf

    async def call(
        self, request: tool_pb2.CallToolRequest, caller: Caller, request_id: str
    ) -> AsyncGenerator[tool_pb2.CallToolResponse, None]:
        """The events of a call; closing the iterator cancels it at once. Raises BackendError."""
        if time.monotonic() >= self._offered_at and request.ByteSize() <= LARGE_BYTES:
            start = tool_pb2.RelayedStart(
                request=request,
                request_id=request_id,
                principal=caller.assertion,
                session=caller.session,
                timeout_ms=round(self._connection.call_timeout_s * 1000),
                window=WINDOW_BYTES,
                max_event_bytes=self._connection.max_message_bytes - 64,
                upstream_tokens=current(),
            )
            if (trace := TRACE.get()) is not None:
                start.traceparent, start.tracestate = trace.traceparent, trace.state
            try:
                async with aclosing(self._stream().call(next(self._numbers), start)) as events:
                    async for event in events:
                        yield event
                return
            except NotOffered:  # then nothing was run
                self._offered_at = time.monotonic() + RETRY_S
        async with aclosing(self._connection.stream(self._tools.CallTool, request, caller, request_id)) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()

    def _stream(self) -> "_Stream":
        self._streams = [stream for stream in self._streams if not stream.lost]
        for stream in self._streams:
            if stream.calls < BUSY:
                return stream
        if len(self._streams) < STREAMS:
            self._streams.append(_Stream(self._tools.RelayCalls(metadata=self._connection.metadata(None, ""))))
            return self._streams[-1]
        return min(self._streams, key=lambda stream: stream.calls)


class _Flight:
    """One call on a stream: the events that wait for its reader, and how it ended."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._events: deque[tool_pb2.CallToolResponse] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self.over = False

    def put(self, event: tool_pb2.CallToolResponse) -> None:
        self._events.append(event)
        self._wake()

    def end(self, failure: Exception | None) -> None:
        """Nothing more comes; what is there already is still read. The first end counts."""
        if not self.over:
            self.over, self._failure = True, failure
            self._wake()

    async def next(self) -> tool_pb2.CallToolResponse | None:
        """The next event, None after the last; raises the failure that ended the call."""
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if self.over:
                return None
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        return self._events.popleft()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


class _Stream:
    """One RelayCalls stream. When it is lost, all its calls are UNAVAILABLE."""

    def __init__(
        self, rpc: "grpc.aio.StreamStreamCall[tool_pb2.RelayCallsRequest, tool_pb2.RelayCallsResponse]"
    ) -> None:
        self._rpc = rpc
        self._flights: dict[int, _Flight] = {}
        self._unsent: deque[tuple[tool_pb2.RelayedAction, int]] = deque()
        self._changed = asyncio.Event()
        self._answered = False
        self._taken = asyncio.Event()
        self.lost = False
        self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._write()))

    @property
    def calls(self) -> int:
        return len(self._flights)

    async def call(self, number: int, start: tool_pb2.RelayedStart) -> AsyncGenerator[tool_pb2.CallToolResponse, None]:
        """Raises BackendError, or NotOffered before anything was run."""
        flight = self._flights[number] = _Flight(start.request_id)
        late = BackendError("DEADLINE_EXCEEDED", default_text("DEADLINE_EXCEEDED"))
        timer = asyncio.get_running_loop().call_later(start.timeout_ms / 1000, flight.end, late)
        self._send(tool_pb2.RelayedAction(call=number, start=start))
        taken = 0
        try:
            while (event := await flight.next()) is not None:
                taken += event.ByteSize()
                if taken > start.window // 2 and not flight.over:
                    self._send(tool_pb2.RelayedAction(call=number, credit=taken))
                    taken = 0
                yield event
        finally:
            timer.cancel()
            if self._flights.pop(number, None) is not None and not self.lost:
                self._send(tool_pb2.RelayedAction(call=number, cancel=tool_pb2.RelayedCancel()))

    async def close(self) -> None:
        self._lose(BackendError("UNAVAILABLE", default_text("UNAVAILABLE")))
        self._rpc.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for response in self._rpc:
                self._answered = True
                self._taken.set()
                for told in response.events:
                    flight = self._flights.get(told.call)
                    if flight is None:
                        continue  # its caller has gone
                    if told.HasField("response"):
                        flight.put(told.response)
                    else:
                        del self._flights[told.call]
                        flight.end(_failure(told.end, flight.request_id))
        except grpc.aio.AioRpcError as error:
            self._lose(self._reason(error))
        finally:
            self._lose(BackendError("UNAVAILABLE", default_text("UNAVAILABLE")))

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # lost, as the reader is told too
            # grpc takes a write that meets the end of the stream for an end of its own, and the server's is not seen:
            # nothing is sent before the server has taken the stream.
            await self._taken.wait()
            while not self.lost:
                if self._unsent:
                    await self._rpc.write(self._batch())
                else:
                    self._changed.clear()
                    await self._changed.wait()

    def _send(self, action: tool_pb2.RelayedAction) -> None:
        self._unsent.append((action, action.ByteSize()))
        self._changed.set()

    def _batch(self) -> tool_pb2.RelayCallsRequest:
        actions: list[tool_pb2.RelayedAction] = []
        room = BATCH_BYTES
        while self._unsent and (not actions or self._unsent[0][1] <= room):
            action, size = self._unsent.popleft()
            actions.append(action)
            room -= size
        return tool_pb2.RelayCallsRequest(actions=actions)

    def _reason(self, error: grpc.aio.AioRpcError) -> Exception:
        if not self._answered and error.code() in _NOT_OFFERED:
            return NotOffered()
        if not self._answered and error.code() in _REFUSED:
            return failure(error, "")
        logger.warning("a stream of tool calls was lost: %s %s", error.code().name, error.details())
        return BackendError("UNAVAILABLE", default_text("UNAVAILABLE"))

    def _lose(self, failure: Exception) -> None:
        self.lost = True
        for flight in self._flights.values():
            flight.end(failure)
        self._flights.clear()
        self._taken.set()
        self._changed.set()


def _failure(end: tool_pb2.RelayedEnd, request_id: str) -> BackendError | None:
    if end.code == 0:
        return None
    return from_status(_CODES.get(end.code, grpc.StatusCode.UNKNOWN), end.status, request_id)
