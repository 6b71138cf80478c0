"""The calls in flight on one connection."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

import mcp_types as types
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPError

from narthex_server.errors import DeadlineExceeded, InvalidToolArguments, NarthexError
from narthex_server.principal import Principal
from narthex_server.tools.failures import late
from narthex_server.tools.inputs import Inputs, Reader
from narthex_server.tools.log_levels import DEFAULT, passes
from narthex_server.tools.tool import CallContext, InputRequest, InputRequired, Log, ToolEvent, ToolResult
from narthex_server.tools.upstream.client import Client
from narthex_server.tools.upstream.clock import Clock
from narthex_server.tools.upstream.convert import convert_result, dump, error_result
from narthex_server.tools.upstream.declaring import DECLARED
from narthex_server.tools.upstream.exchange import Exchange
from narthex_server.tools.upstream.flight import FLIGHT, Flight
from narthex_server.tools.upstream.guard import Passage
from narthex_server.tools.upstream.inputs import ELICITATION, ROOTS, SAMPLING, is_lost, lacking, reader
from narthex_server.tools.upstream.sampler import Sampler
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.source import ServerSource

MAX_INPUTS = 64
"""Requests of one call that may be answered at once; more are refused."""

_log = logging.getLogger(__name__)

_SAMPLED = reader(types.CreateMessageResult, types.CreateMessageResultWithTools)
_ELICITED = reader(types.ElicitResult)
_ROOTS = reader(types.ListRootsResult)


class Calls:
    """Runs calls on a client, which the owner connects and disconnects.

    `on_log`, `on_sampling`, `on_elicitation` and `on_roots` are the client's callbacks.
    """

    def __init__(
        self, source: ServerSource, exchange: Exchange, secrets: Secrets, sampler: Sampler | None = None
    ) -> None:
        self._source = source
        self._exchange = exchange
        self._secrets = secrets
        self._sampler = sampler
        self._turns = asyncio.Semaphore(source.concurrency)
        self._flights: dict[Flight, None] = {}  # in the order of their beginning
        self._level = DEFAULT  # what a server of before 2026-07-28 sends, as far as we said
        self._strayed = False  # a request of this connection, which the log says once
        self.client: Client | None = None

    def connect(self, client: Client) -> None:
        self.client = client
        self._strayed = False
        self._level = DEFAULT

    def disconnect(self) -> None:
        self.client = None

    async def run(
        self,
        tool: str,
        arguments: dict[str, Any],
        context: CallContext,
        connected: Callable[[CallContext], AbstractContextManager[Passage]],
    ) -> AsyncGenerator[ToolEvent]:
        """Yields what the server sends for this call, its end last; closing it cancels the call upstream.

        `connected` says what an MCPError inside it, and no connection, is to the caller. Raises as ToolServer.call.
        """
        with connected(context) as passage:
            flight = Flight(context, Clock(self._source.call_seconds, context.deadline))
            request = asyncio.create_task(self._request(flight, tool, arguments))
            request.add_done_callback(flight.end)
            try:
                while (event := await flight.event()) is not None:
                    yield event
                end = request.result()
                passage.saw(end)
                yield end
            finally:
                if not request.done():
                    request.cancel()
                    await asyncio.gather(request, return_exceptions=True)

    async def on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        """Goes to the call whose stream it came on; else to all in flight of one tenant, or to nobody."""
        log = Log(params.level, params.logger or "", dump(params.data))
        for flight in self._told():
            if passes(log.level, flight.level):
                flight.put(log)

    async def on_sampling(self, context: ClientRequestContext, params: types.CreateMessageRequestParams) -> Any:
        return await self._asked(SAMPLING, _dumped(params), _SAMPLED)

    async def on_elicitation(self, context: ClientRequestContext, params: types.ElicitRequestParams) -> Any:
        return await self._asked(ELICITATION, _dumped(params), _ELICITED)

    async def on_roots(self, context: ClientRequestContext) -> Any:
        return await self._asked(ROOTS, {}, _ROOTS)

    def _told(self) -> Collection[Flight]:
        """The calls that a message from the server is about."""
        if DECLARED.get() is not None:
            return [flight for flight in self._flights if flight is FLIGHT.get()]
        return self._flights if len({principal.tenant for principal in self._callers()}) == 1 else ()

    def _asking(self) -> Flight | None:
        """The call that a request from the server belongs to; None if that cannot be told."""
        if DECLARED.get() is not None:
            return flight if (flight := FLIGHT.get()) in self._flights else None
        return next(reversed(self._flights), None) if len(self._callers()) == 1 else None

    def _callers(self) -> set[Principal]:
        """Whoever has something in flight on this connection, be it no call."""
        return {*self._exchange.callers, *(flight.context.principal for flight in self._flights)}

    async def _asked(self, method: str, params: dict[str, Any], read: Reader) -> Any:
        """The answer to a request from the server: a result, or an ErrorData."""
        if (flight := self._asking()) is None:
            _log.log(
                logging.DEBUG if self._strayed else logging.WARNING,
                'upstream %s asks its callers, and whom cannot be told; with "scope": "session" it can',
                self._source.name,
            )
            self._strayed = True
            why = "calls of several callers are" if self._flights else "no call that it could belong to is"
            return _error(types.INVALID_REQUEST, f"whom to ask cannot be told: {why} in flight")
        if flight.attended >= MAX_INPUTS:
            return _error(types.INVALID_REQUEST, f"the call has {MAX_INPUTS} requests open already")
        if method == SAMPLING and self._source.sampling == "model" and self._sampler is not None:
            return await flight.attend(self._sample(self._sampler, params, flight.context))
        if needed := lacking(method, params, flight.context.mcp.capabilities):
            partly = needed.keys() <= flight.context.mcp.capabilities.keys()
            code = types.INVALID_PARAMS if partly else types.METHOD_NOT_FOUND
            return _error(code, f"the caller of this tool does not offer {dump(needed).decode()}")
        if (inputs := flight.context.inputs) is None:
            return _error(types.INVALID_REQUEST, "the caller of this tool cannot be asked while it runs")
        return await flight.attend(self._ask(flight, inputs, InputRequest("", method, dump(params)), read))

    async def _ask(self, flight: Flight, inputs: Inputs, request: InputRequest, read: Reader) -> Any:
        with inputs.expect(read) as (name, answer):
            named = InputRequest(name, request.method, request.params)
            if not flight.put(InputRequired(inputs.call_id, (named,))):
                return _error(types.INVALID_REQUEST, "the caller of this tool does not listen")
            return await answer

    async def _sample(self, sampler: Sampler, params: dict[str, Any], context: CallContext) -> Any:
        try:
            result = await sampler.sample(params, context)
        except NarthexError as error:
            return _error(types.INVALID_PARAMS, error.message)
        return types.CreateMessageResultWithTools.model_validate(result, by_name=False)

    async def _request(self, flight: Flight, tool: str, arguments: dict[str, Any]) -> ToolResult | InputRequired:
        limit = self._source.call_seconds
        if flight.context.deadline is not None:
            limit = min(limit, flight.context.deadline - asyncio.get_running_loop().time())
        try:
            async with flight.clock, self._turns:
                end = await self._send(flight, tool, arguments)
                return end if isinstance(end, InputRequired) else self._secrets.hide_in_result(end)
        except TimeoutError:
            raise self._too_late(limit) from None
        finally:
            flight.context.over()

    async def _send(self, flight: Flight, tool: str, arguments: dict[str, Any]) -> ToolResult | InputRequired:
        if self.client is None:
            raise MCPError(types.CONNECTION_CLOSED, "connection closed")
        FLIGHT.set(flight)  # the task is this call's own
        self._flights[flight] = None
        try:
            await self._want_logs(self.client, flight.level)
            params = {"name": tool, "arguments": arguments}
            end = await self._exchange.make(
                self.client, "tools/call", params, flight.context, flight.on_progress, flight.clock.paused
            )
        except MCPError as error:
            return self._refused(error)
        finally:
            del self._flights[flight]
            flight.over.set()
        return end if isinstance(end, InputRequired) else convert_result(end)

    async def _want_logs(self, client: Client, level: str) -> None:
        """Lets a server of before 2026-07-28 send what this call wants, which it then does on the whole connection."""
        if client.is_modern or client.server_capabilities.logging is None:
            return
        if level != "off" and not passes(level, self._level):
            self._level = level
            request = types.SetLevelRequest.model_validate({"params": {"level": level}})
            try:
                await client.session.send_request(request, types.EmptyResult)
            except MCPError as error:
                if is_lost(error):
                    raise
                _log.debug("upstream %s does not set its level: %s", self._source.name, error.message)

    def _refused(self, error: MCPError) -> ToolResult:
        """A JSON-RPC error: about the connection, about the arguments, or the tool's own way to fail."""
        if is_lost(error):
            raise error
        if error.code == types.REQUEST_TIMEOUT:
            raise self._too_late(self._source.call_seconds)
        if error.code == types.INVALID_PARAMS:
            raise InvalidToolArguments(error.message, metadata={"upstream": self._source.name})
        text = f"{error.message} (JSON-RPC error {error.code} of upstream {self._source.name!r})"
        return error_result(text, faulted=error.code == types.INTERNAL_ERROR)

    def _too_late(self, limit: float) -> DeadlineExceeded:
        return late(self._source.name, f"did not answer within {max(limit, 0):g} s; the call was cancelled there")


def _dumped(params: types.CreateMessageRequestParams | types.ElicitRequestParams) -> dict[str, Any]:
    """As it came, without the token for progress that nobody will report."""
    dumped = params.model_dump(by_alias=True, mode="json", exclude_unset=True)
    if isinstance(meta := dumped.get("_meta"), dict):
        meta.pop("progressToken", None)
        if not meta:
            del dumped["_meta"]
    return dumped


def _error(code: int, message: str) -> types.ErrorData:
    return types.ErrorData(code=code, message=message)
