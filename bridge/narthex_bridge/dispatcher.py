"""Runs the requests of MCP clients against the server: exactly one response each, whatever happens."""

import asyncio
import importlib.metadata
import logging
import time
from contextlib import aclosing
from typing import Protocol

from orjson import Fragment

from narthex_bridge.backend import Backend
from narthex_bridge.catalog import Catalog
from narthex_bridge.metrics import Metrics
from narthex_bridge.protocol import jsonrpc, methods
from narthex_bridge.protocol.call import ToolCall
from narthex_bridge.protocol.events import InputRequired, Result
from narthex_bridge.protocol.failures import BackendError, rpc_error
from narthex_bridge.protocol.jsonrpc import Id, Request, RpcError
from narthex_bridge.sessions import Session

logger = logging.getLogger(__name__)

SHUTDOWN = "shutdown"
_VERSION = importlib.metadata.version("narthex")
_NEEDS_INPUT = "This tool asks its caller for input, which this connection cannot give; call it over gRPC."


class Responder(Protocol):
    """Where the messages for one client go."""

    async def notify(self, message: bytes) -> None:
        """Sends a notification; waits while the client lags."""

    def respond(self, message: bytes, failed: bool) -> None:
        """Sends a response; `failed` tells a JSON-RPC error from a result."""

    def called(self, seconds: float) -> None:
        """Notes that a tool call took the server so long."""


class Dispatcher:
    """Takes requests while there is capacity and the process is not draining."""

    def __init__(self, backend: Backend, catalog: Catalog, metrics: Metrics, max_calls: int) -> None:
        self._backend = backend
        self._catalog = catalog
        self._metrics = metrics
        self._max_calls = max_calls
        self._running: set[asyncio.Task[None]] = set()
        self.draining = False

    def start(self, request: Request, session: Session, request_id: str, responder: Responder) -> asyncio.Task[None]:
        """Begins the work on a request; its notifications and its one response go to `responder`."""
        task = asyncio.create_task(self._run(request, session, request_id, responder))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def drain(self, grace_s: float) -> None:
        """Takes no new requests; those in work finish, or are ended when the grace is over."""
        self.draining = True
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for task in list(self._running):
            task.cancel(SHUTDOWN)
        if self._running:
            await asyncio.wait(self._running)

    async def _run(self, request: Request, session: Session, request_id: str, responder: Responder) -> None:
        task = asyncio.current_task()
        assert task is not None
        duplicate = request.id in session.calls
        if not duplicate:
            session.calls[request.id] = task
        failure: RpcError | None = None
        response = b""
        try:
            if duplicate:
                raise RpcError(jsonrpc.INVALID_REQUEST, f"A request with id {request.id!r} is already in work.")
            response = await self._respond(request, session, request_id, responder)
        except RpcError as error:
            failure = error
        except BackendError as error:
            failure = rpc_error(error, request_id)
        except asyncio.CancelledError as cancelled:
            failure = rpc_error(_ended(SHUTDOWN in cancelled.args), request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            text = f"The bridge failed to do this; its log has more under request id {request_id}."
            failure = RpcError(jsonrpc.INTERNAL_ERROR, text)
        finally:
            if not duplicate:
                del session.calls[request.id]
        self._metrics.answered(request.method, failure.code if failure else 0)
        responder.respond(jsonrpc.error(request.id, failure) if failure else response, failure is not None)

    async def _respond(self, request: Request, session: Session, request_id: str, responder: Responder) -> bytes:
        effect = methods.read(request)
        match effect:
            case methods.Initialize(era):
                if session.initialized:
                    raise RpcError(jsonrpc.INVALID_REQUEST, "This session is already initialized.")
                session.era, session.initialized = era, True
                return jsonrpc.result(request.id, methods.initialize_result(era, _VERSION))
            case methods.Ping():
                return jsonrpc.result(request.id, {})
            case methods.SetLogLevel(level):
                session.log_level = level
                return jsonrpc.result(request.id, {})
            case methods.ListTools(cursor):
                page = await self._catalog.page(session.caller, request_id, cursor, session.era)
                return jsonrpc.result(request.id, Fragment(page))
            case methods.CallTool():
                if self.draining or len(self._running) > self._max_calls:
                    raise (
                        _ended(True)
                        if self.draining
                        else BackendError(
                            "RESOURCE_EXHAUSTED", "The bridge has as many calls in work as it may.", reason="MAX_CALLS"
                        )
                    )
                return await self._call(request.id, effect, session, request_id, responder)

    async def _call(
        self, id: Id, effect: methods.CallTool, session: Session, request_id: str, responder: Responder
    ) -> bytes:
        started = time.perf_counter()
        call = ToolCall(id, session.era, effect.token, session.log_level)
        try:
            events = self._backend.call_tool(session.caller, request_id, effect.name, effect.arguments)
            async with aclosing(events):
                async for event in events:
                    match event:
                        case Result():
                            return call.result(event)
                        case InputRequired():
                            raise BackendError("FAILED_PRECONDITION", _NEEDS_INPUT, reason="INPUT_REQUIRED")
                        case _:
                            if (message := call.notify(event)) is not None:
                                await responder.notify(message)
        except BackendError as failure:
            if (response := call.recover(failure)) is not None:
                return response
            raise
        finally:
            responder.called(time.perf_counter() - started)
        raise AssertionError("a call's events end with its result or a failure")


def _ended(shutdown: bool) -> BackendError:
    if shutdown:
        return BackendError("UNAVAILABLE", "The bridge is shutting down.", reason="DRAINING")
    return BackendError("CANCELLED", "The request was cancelled.")
