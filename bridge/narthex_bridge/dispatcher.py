"""Runs the requests of MCP clients against the server: exactly one response each, whatever happens."""

import asyncio
import logging

from narthex_bridge.answers import Answers
from narthex_bridge.calls import Origin
from narthex_bridge.metrics import Metrics
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.failures import BackendError, rpc_error
from narthex_bridge.protocol.jsonrpc import Request, RpcError
from narthex_bridge.responder import Responder
from narthex_bridge.sessions import Session

logger = logging.getLogger(__name__)

SHUTDOWN = "shutdown"
_WORK = frozenset({"tools/call", "resources/read", "prompts/get", "subscriptions/listen"})


class Dispatcher:
    """Takes requests while there is capacity and the process is not draining."""

    def __init__(self, answers: Answers, metrics: Metrics, max_calls: int) -> None:
        self._answers = answers
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
        self._answers.close()
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
            self._admit(request)
            response = await self._answers.answer(Origin(request, session, request_id, responder))
        except RpcError as error:
            failure = error
        except BackendError as error:
            failure = rpc_error(error, request_id, session.era)
        except asyncio.CancelledError as cancelled:
            failure = rpc_error(_ended(SHUTDOWN in cancelled.args), request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            text = f"The bridge failed to do this; its log has more under request id {request_id}."
            failure = RpcError(jsonrpc.INTERNAL_ERROR, text)
        finally:
            if not duplicate:
                del session.calls[request.id]
        code = failure.code if failure else 0
        self._metrics.answered(request.method, code)
        responder.respond(jsonrpc.error(request.id, failure) if failure else response, code)

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
