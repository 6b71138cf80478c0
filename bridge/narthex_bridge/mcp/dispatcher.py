"""Runs the requests of MCP clients against the server: exactly one response each, whatever happens."""

import asyncio
import logging

from narthex.tracing.context import TRACE

from narthex_bridge.mcp.answers import Answers
from narthex_bridge.mcp.calls import Origin
from narthex_bridge.mcp.tracing import RequestSpans
from narthex_bridge.metrics import Metrics
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.failures import BackendError, rpc_error
from narthex_bridge.protocol.jsonrpc import Request, RpcError
from narthex_bridge.sessions.responder import Responder
from narthex_bridge.sessions.session import Session

logger = logging.getLogger(__name__)

SHUTDOWN = "shutdown"
_WORK = frozenset({"tools/call", "resources/read", "prompts/get", "subscriptions/listen"})


class Dispatcher:
    """Takes requests while there is capacity and the process is not draining."""

    def __init__(self, answers: Answers, metrics: Metrics, max_calls: int, spans: RequestSpans) -> None:
        self._answers = answers
        self._spans = spans
        self._metrics = metrics
        self._max_calls = max_calls
        self._running: set[asyncio.Task[None]] = set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._running)

    def start(self, request: Request, session: Session, request_id: str, responder: Responder) -> asyncio.Task[None]:
        """Begins the work on a request; its notifications and its one response go to `responder`."""
        origin, known = Origin(request, session, request_id, responder), request.id in session.calls
        task = asyncio.create_task(self._refuse(origin) if known else self._run(origin))
        if not known:
            session.calls[request.id] = task
        self._running.add(task)
        task.add_done_callback(lambda task: self._over(task, origin, known))
        return task

    async def drain(self, grace_s: float) -> None:
        """Takes no new requests; those in work finish, or are ended when the grace is over."""
        self.draining = True
        self._answers.close()
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for task in list(self._running):
            task.cancel(SHUTDOWN)
        if self._running:
            await asyncio.wait(self._running)

    async def _run(self, origin: Origin) -> None:
        with self._spans.of(origin) as span:
            TRACE.set(span.context)
            failure, response = await self._outcome(origin)
            if failure is not None:
                span.fail(str(failure.code))
                span.note("rpc.response.status_code", str(failure.code))
        self._respond(origin, failure, response)

    async def _outcome(self, origin: Origin) -> tuple[RpcError | None, bytes]:
        failure: RpcError | None = None
        response = b""
        try:
            self._admit(origin.request)
            response = await self._answers.answer(origin)
        except RpcError as error:
            failure = error
        except BackendError as error:
            failure = rpc_error(error, origin.request_id, origin.session.era)
        except asyncio.CancelledError as cancelled:
            failure = rpc_error(_ended(SHUTDOWN in cancelled.args), origin.request_id)
        except Exception:
            logger.exception("request %s failed", origin.request_id)
            text = f"The bridge failed to do this; its log has more under request id {origin.request_id}."
            failure = RpcError(jsonrpc.INTERNAL_ERROR, text)
        return failure, response

    async def _refuse(self, origin: Origin) -> None:
        text = f"A request with id {origin.request.id!r} is already in work."
        self._respond(origin, RpcError(jsonrpc.INVALID_REQUEST, text))

    def _over(self, task: asyncio.Task[None], origin: Origin, known: bool) -> None:
        self._running.discard(task)
        if not known:
            del origin.session.calls[origin.request.id]
        if task.cancelled():  # before it had begun, else it would have answered
            self._respond(origin, rpc_error(_ended(self.draining), origin.request_id))

    def _respond(self, origin: Origin, failure: RpcError | None, response: bytes = b"") -> None:
        code = failure.code if failure else 0
        self._metrics.answered(origin.request.method, code)
        origin.responder.respond(jsonrpc.error(origin.request.id, failure) if failure else response, code)

    def _admit(self, request: Request) -> None:
        """Raises BackendError for work that cannot be taken; what costs next to nothing always is."""
        if request.method not in _WORK:
            return
        if self.draining:
            raise _ended(True)
        if len(self._running) > self._max_calls:
            raise BackendError(
                "RESOURCE_EXHAUSTED", "The bridge has as many calls in work as it may.", reason="MAX_CALLS"
            )


def _ended(shutdown: bool) -> BackendError:
    if shutdown:
        return BackendError("UNAVAILABLE", "The bridge is shutting down.", reason="DRAINING")
    return BackendError("CANCELLED", "The request was cancelled.")
