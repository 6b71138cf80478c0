"""Calls of another narthex's tools, and what it asks our callers meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from narthex.v1 import tool_pb2 as wire

from narthex_server.cascade import convert
from narthex_server.cascade.wire import Wire
from narthex_server.errors import FailedPrecondition, InvalidRequest, NotFound, Unavailable
from narthex_server.tools.failures import late
from narthex_server.tools.inputs import Answer, Inputs
from narthex_server.tools.tool import CallContext, InputRequest, InputRequired, ToolEvent
from narthex_server.tools.upstream.clock import Clock

WAITING = 64
"""Events that wait for a slow reader; then the other server waits too."""

INPUT_TIMEOUT = 610.0
"""Seconds after which we stop waiting for an answer: the other server has given up before."""

ANSWER_TIMEOUT = 30.0
_MISFIT = {"code": -32602, "message": "The answer of the client does not fit the request."}


class Flight:
    """One call in flight: the events that are to be read, and what is waited for."""

    def __init__(self, name: str, other: Wire, context: CallContext, seconds: float) -> None:
        self._name = name
        self._other = other
        self._context = context
        self._seconds = seconds
        self._clock = Clock(seconds, context.deadline)
        self._metadata = other.metadata(context)
        self._events: asyncio.Queue[ToolEvent | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(WAITING)
        self._questions: set[asyncio.Task[None]] = set()

    async def run(self, tool: str, arguments: dict[str, object]) -> AsyncGenerator[ToolEvent, None]:
        """Yields the call's events, its end last; closing it cancels the call there. Raises NarthexError."""
        pump = asyncio.create_task(self._pump(tool, arguments))
        pump.add_done_callback(lambda _: self._events.put_nowait(None))
        try:
            while (event := await self._events.get()) is not None:
                self._room.release()
                yield event
            pump.result()
        finally:
            pump.cancel()
            for question in self._questions:
                question.cancel()
            await asyncio.gather(pump, *self._questions, return_exceptions=True)

    async def _pump(self, tool: str, arguments: dict[str, object]) -> None:
        request = wire.CallToolRequest(
            name=tool, arguments=orjson.dumps(arguments), mcp=convert.mcp_context(self._context.mcp)
        )
        if self._context.inputs is None and request.mcp.client_capabilities:
            request.mcp.client_capabilities = b""  # nobody can be asked
        deadline, now = self._context.deadline, asyncio.get_running_loop().time()
        left = None if deadline is None else max(deadline - now, 0.001)
        over = False
        try:
            async with self._clock:
                calls = self._other.stream(self._other.tools.CallTool, request, self._metadata, left)
                async with aclosing(calls) as responses:
                    async for response in responses:
                        over = await self._take(response) or over
        except TimeoutError:
            what = f"did not answer within {self._seconds:g} s; the call was cancelled there"
            raise late(self._name, what) from None
        finally:
            self._context.over()
        if not over:
            raise Unavailable(
                f"upstream {self._name!r} ended the call without a result",
                reason="UPSTREAM_INVALID_RESULT",
                metadata={"upstream": self._name},
            )

    async def _take(self, response: wire.CallToolResponse) -> bool:
        """Passes an event on; whether it is the call's last."""
        match response.WhichOneof("event"):
            case "progress":
                await self._put(convert.progress(response.progress))
            case "log":
                await self._put(convert.log(response.log))
            case "text_delta":
                await self._put(convert.text_delta(response.text_delta))
            case "result":
                await self._put(convert.result(response.result))
                return True
            case "input_required":
                return await self._wanted(response.input_required)
        return False

    async def _put(self, event: ToolEvent) -> None:
        with self._clock.paused():  # it is our reader that is slow
            await self._room.acquire()
        self._events.put_nowait(event)

    async def _wanted(self, wanted: wire.InputRequired) -> bool:
        requests = tuple(convert.request(one) for one in wanted.requests if one.HasField("mcp"))
        if len(requests) < len(wanted.requests):
            raise FailedPrecondition(
                f"upstream {self._name!r} wants a call approved, which is not passed on; approve such calls here",
                reason="APPROVAL_NOT_FORWARDED",
                metadata={"upstream": self._name},
            )
        if (state := convert.state(wanted)) is not None:
            context = self._context
            call_id = context.request_id if context.inputs is None else context.inputs.call_id
            await self._put(InputRequired(call_id, requests, state))
            return True
        if (inputs := self._context.inputs) is not None:
            for request in requests:
                question = asyncio.create_task(self._ask(inputs, wanted.call_id, request))
                self._questions.add(question)
        return False

    async def _ask(self, inputs: Inputs, call_id: str, request: InputRequest) -> None:
        """Asks our caller, and brings the answer; the call may end, or give up waiting, before."""
        with inputs.expect(_as_it_is) as (name, answered), self._clock.paused():
            await self._put(InputRequired(inputs.call_id, (InputRequest(name, request.method, request.params),)))
            try:
                async with asyncio.timeout(INPUT_TIMEOUT):
                    answer = await answered
            except TimeoutError:
                return
        try:
            await self._respond(call_id, request.id, answer)
        except (NotFound, FailedPrecondition):
            return
        except InvalidRequest:
            await self._respond(call_id, request.id, Answer(request.id, error=_MISFIT))

    async def _respond(self, call_id: str, name: str, answer: Answer) -> None:
        request = wire.RespondRequest(call_id=call_id, responses=[convert.response(name, answer)])
        await self._other.ask(self._other.tools.Respond, request, self._metadata, ANSWER_TIMEOUT)


def _as_it_is(answer: Answer) -> Answer:
    return answer
