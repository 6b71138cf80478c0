"""Many calls on one stream, each run as one with a stream of its own: opening a stream costs more than a short call."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias, cast

from grpc import StatusCode
from grpc.aio import AbortError, ServicerContext
from narthex.tracing.context import TRACEPARENT, TRACESTATE
from narthex.v1 import tool_pb2 as wire

from narthex_server.errors import InvalidRequest, NarthexError, ResourceExhausted, Unavailable, Unimplemented
from narthex_server.principal import ASSERTED_HEADER, REQUEST_ID_HEADER, SESSION_HEADER
from narthex_server.tools.upstream.tokens import HEADER

CALL_TOOL = "/narthex.v1.ToolService/CallTool"
BATCH_BYTES = 32 * 1024
"""Up to so many bytes of events share a message; a larger event has one of its own."""

MIN_MESSAGE_BYTES = 128 * 1024
"""What several actions of one message may come to: below this limit of messages none could share a stream."""

MAX_WINDOW = 256 * 1024
"""What a call may have under way at most, in bytes, whatever the client allows."""

MAX_UNSENT = 1000
"""Events that wait to be sent on a stream; with more nothing is read from it, so that refusals cannot pile up."""

_OVERHEAD = 64  # what a relayed event has besides the event, at most
_STATUS = "grpc-status-details-bin"
_OWN = (REQUEST_ID_HEADER, ASSERTED_HEADER, SESSION_HEADER, TRACEPARENT, TRACESTATE)
"""Metadata that each call has for itself."""

Context: TypeAlias = ServicerContext[Any, Any]
Responses: TypeAlias = AsyncIterator[wire.CallToolResponse]
Handler: TypeAlias = Callable[[wire.CallToolRequest, Context, int], Responses]
"""Runs a call whose events have so many bytes at most."""


class Relay:
    """Runs what RelayCalls brings, at most `max_calls` at once.

    `guard` stands around each call as the interceptors stand around an RPC: it finds the caller, counts, and turns
    errors into statuses.
    """

    def __init__(
        self, guard: Callable[[Responses, Context], Responses], *, max_calls: int, max_message_bytes: int
    ) -> None:
        self.guard = guard
        self.max_event_bytes = max_message_bytes - _OVERHEAD
        self.working = 0
        self.draining = False
        self._max_calls = max_calls
        self._offered = max_message_bytes >= MIN_MESSAGE_BYTES
        self._streams: set[_Stream] = set()

    def drain(self) -> None:
        """Takes no new calls; each stream ends when its calls have."""
        self.draining = True
        for stream in self._streams:
            stream.wake()

    async def serve(
        self, handler: Handler, requests: AsyncIterator[wire.RelayCallsRequest], context: Context
    ) -> AsyncIterator[wire.RelayCallsResponse]:
        """Runs the calls of one stream by `handler`; the stream's end, however it comes, cancels them."""
        if not self._offered:
            raise Unimplemented(
                f"calls are relayed where messages may have {MIN_MESSAGE_BYTES} bytes; make each by itself"
            )
        shared = tuple(
            (key, value)
            for key, value in context.invocation_metadata() or ()
            if key not in _OWN and not key.startswith(HEADER)
        )
        stream = _Stream(self, handler, shared, context.peer())
        self._streams.add(stream)
        try:
            yield wire.RelayCallsResponse()  # the stream is taken
            async with aclosing(stream.responses(requests)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._streams.discard(stream)

    def refusal(self) -> NarthexError | None:
        """Why no further call is taken now."""
        if self.draining:
            return Unavailable("The server is shutting down.", reason="DRAINING")
        return self.crowded()

    def crowded(self) -> NarthexError | None:
        """Why no further call is taken, as far as it is that there are so many."""
        if self.working >= self._max_calls:
            return ResourceExhausted("The server has as many calls in work as it may.", reason="MAX_CONCURRENT_CALLS")
        return None


class RelayedContext:
    """What interceptors and handlers ask of an RPC's context, for a call without an RPC of its own."""

    def __init__(self, metadata: tuple[tuple[str, str | bytes], ...], limit_s: float | None, peer: str = "") -> None:
        """`limit_s`: seconds from now to the deadline; `peer`: who sent it, as gRPC names those."""
        self._metadata = metadata
        self._peer = peer
        self._clock = asyncio.get_running_loop().time
        self._deadline = None if limit_s is None else self._clock() + limit_s
        self._code: StatusCode | None = None
        self._status = b""

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    async def send_initial_metadata(self, metadata: object) -> None:
        """Only the request id is ever sent so, which whoever relays has chosen."""

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - self._clock(), 0.0)

    def code(self) -> StatusCode | None:
        return self._code

    async def abort(
        self, code: StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> NoReturn:
        self._code, self._status = code, dict(trailing_metadata).get(_STATUS, b"")
        raise AbortError(details)

    def aborted(self) -> wire.RelayedEnd:
        return _end(self._code or StatusCode.UNKNOWN, self._status)

    def cancelled(self) -> wire.RelayedEnd:
        return _end(StatusCode.DEADLINE_EXCEEDED if self.time_remaining() == 0 else StatusCode.CANCELLED)


class _Call:
    """One call: how many bytes of its events may still be sent, and the task that runs it."""

    def __init__(self, window: int) -> None:
        self._window = min(window, MAX_WINDOW)
        self._credited = asyncio.Event()
        self._begun = self._cancelled = False
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The task runs from here on; raises CancelledError where the call was cancelled before."""
        self._begun = True
        if self._cancelled:
            raise asyncio.CancelledError

    def credit(self, size: int) -> None:
        self._window = min(self._window + size, MAX_WINDOW)
        self._credited.set()

    async def spend(self, size: int) -> None:
        """Takes the size of an event from the window; waits first while nothing of it is left."""
        while self._window <= 0:
            self._credited.clear()
            await self._credited.wait()
        self._window -= size

    def cancel(self) -> None:
        self._cancelled = True
        if self._begun and self.task is not None:  # a task that is cancelled before it begins would never end its call
            self.task.cancel()


class _Stream:
    """One stream: reads actions, runs calls, and sends what they yield, small events together."""

    def __init__(
        self, relay: Relay, handler: Handler, metadata: tuple[tuple[str, str | bytes], ...], peer: str
    ) -> None:
        self._relay = relay
        self._handler = handler
        self._metadata = metadata
        self._peer = peer
        self._calls: dict[int, _Call] = {}
        self._unsent: deque[tuple[int, wire.CallToolResponse | wire.RelayedEnd, int]] = deque()
        self._changed = asyncio.Event()
        self._sent = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def responses(
        self, requests: AsyncIterator[wire.RelayCallsRequest]
    ) -> AsyncGenerator[wire.RelayCallsResponse, None]:
        reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(lambda _: self.wake())
        try:
            while True:
                if self._unsent:
                    batch = self._batch()
                    self._sent.set()
                    yield batch
                elif reading.done() and (failure := reading.exception()) is not None:
                    raise failure
                elif not self._calls and (reading.done() or self._relay.draining):
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            reading.cancel()
            for call in self._calls.values():
                call.cancel()
            tasks = [call.task for call in self._calls.values() if call.task is not None]
            await asyncio.gather(reading, *tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[wire.RelayCallsRequest]) -> None:
        async for request in requests:
            for action in request.actions:
                match action.WhichOneof("action"):
                    case "start":
                        await self._start(action.call, action.start)
                    case "credit" if action.call in self._calls:
                        self._calls[action.call].credit(action.credit)
                    case "cancel" if action.call in self._calls:
                        self._calls[action.call].cancel()

    async def _start(self, number: int, start: wire.RelayedStart) -> None:
        if number in self._calls:
            raise InvalidRequest(f"call {number} is in work already; every call of a stream has a number of its own")
        while len(self._unsent) > MAX_UNSENT:
            self._sent.clear()
            await self._sent.wait()
        refusal = self._relay.refusal()
        call = self._calls[number] = _Call(start.window)
        self._relay.working += 1
        if refusal is not None:
            await self._run(number, call, start, _refused(refusal))  # here, so that a flood of calls makes no tasks
        else:
            call.task = asyncio.create_task(self._run(number, call, start, self._handler))

    async def _run(self, number: int, call: _Call, start: wire.RelayedStart, handler: Handler) -> None:
        limit_s = start.timeout_ms / 1000 if start.timeout_ms else None
        own = start.request_id, start.principal, start.session, start.traceparent, start.tracestate
        metadata = (*self._metadata, *zip(_OWN, own, strict=True))
        metadata += tuple((f"{HEADER}{name.lower()}", token) for name, token in start.upstream_tokens.items())
        relayed = RelayedContext(metadata, limit_s, self._peer)
        context = cast(Context, relayed)
        timer = None if limit_s is None else asyncio.get_running_loop().call_later(limit_s, call.cancel)
        largest = min(start.max_event_bytes or self._relay.max_event_bytes, self._relay.max_event_bytes)
        end = _end(StatusCode.UNKNOWN)
        try:
            call.begin()
            guarded = self._relay.guard(handler(start.request, context, largest), context)
            async with aclosing(cast(AsyncGenerator[wire.CallToolResponse, None], guarded)) as responses:
                async for response in responses:
                    size = response.ByteSize()
                    await call.spend(size)
                    self._send(number, response, size)
            end = _end(StatusCode.OK)
        except AbortError:
            end = relayed.aborted()
        except asyncio.CancelledError:
            end = relayed.cancelled()
        finally:
            if timer is not None:
                timer.cancel()
            del self._calls[number]
            self._relay.working -= 1
            self._send(number, end, len(end.status))

    def _send(self, number: int, event: wire.CallToolResponse | wire.RelayedEnd, size: int) -> None:
        self._unsent.append((number, event, size + _OVERHEAD))
        self._changed.set()

    def _batch(self) -> wire.RelayCallsResponse:
        batch, total = wire.RelayCallsResponse(), 0
        while self._unsent and (not total or total + self._unsent[0][2] <= BATCH_BYTES):
            number, event, size = self._unsent.popleft()
            total += size
            if isinstance(event, wire.RelayedEnd):
                batch.events.add(call=number, end=event)
            else:
                batch.events.add(call=number, response=event)
        return batch


def _refused(error: NarthexError) -> Handler:
    async def refuse(request: wire.CallToolRequest, context: Context, largest: int) -> Responses:
        raise error
        yield

    return refuse


def _end(code: StatusCode, status: bytes = b"") -> wire.RelayedEnd:
    return wire.RelayedEnd(code=code.value[0], status=status)
