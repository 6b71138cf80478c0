"""A JSON-RPC session over lines: requests both ways and their answers, in whatever order they come."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Protocol, TypeGuard

import anyio
import anyio.abc
import mcp_types as types
from mcp.shared.dispatcher import (
    CallOptions,
    Dispatcher,
    OnNotify,
    OnNotifyIntercept,
    OnRequest,
    ProgressFnT,
    coerce_request_id,
    run_notify_intercept,
)
from mcp.shared.exceptions import MCPError
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import RequestId
from pydantic import ValidationError

from narthex_server.errors import ResourceExhausted
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.upstream import jsonrpc
from narthex_server.tools.upstream.cutter import AT_ONCE, Cutter
from narthex_server.tools.upstream.lines import LongLine
from narthex_server.tools.upstream.pace import Pace
from narthex_server.tools.upstream.results import CALL

OnProgress = Callable[[float, float | None, str | None], object]
"""Told of each step as it comes: how far, of how much, and a message."""

UNASKED_RATE, UNASKED_BURST = 1000.0, 1000
"""Lines a second that answer nothing; whoever floods us waits, and not those who have other peers."""

TURN = 64
"""Such lines after which others have a turn."""

_log = logging.getLogger(__name__)


class Peer(Protocol):
    """Who is spoken to; it comes and goes without the session's doing."""

    @property
    def name(self) -> str: ...

    @property
    def longest(self) -> int:
        """The bytes of a line at most; of a longer one the ends alone are read."""

    async def read(self) -> Sequence[bytes | LongLine]:
        """The next lines; none at all when there will be no more."""

    def write(self, line: bytes) -> None:
        """Takes a line at once; raises OSError or RuntimeError when it cannot be sent."""

    async def drain(self) -> None:
        """Returns when there is room for more; raises as `write` does."""

    def skip(self, line: bytes) -> None:
        """Told of a line that is no message."""


_Answer = jsonrpc.Message | LongLine | ValueError | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request of ours, of which a large answer may be cut or not.

    The answer is the peer's response, too long or not, an error where it is none, or None at the connection's end.
    """

    answer: "asyncio.Future[_Answer]"
    on_progress: OnProgress | None
    cuts: bool


class Session(Dispatcher[TransportContext]):
    """A dispatcher of the SDK's that costs little: a message is a dict, and an answer wakes whoever waits for it.

    What the SDK's client does with it (negotiation, lists, subscriptions, what the peer asks of us) stays the SDK's;
    `call` is the short way for what passes through.
    """

    def __init__(self, peer: Peer, locks: Locks = UNMETERED) -> None:
        self._peer = peer
        self._numbers = count(1)
        self._asked: dict[RequestId, _Asked] = {}
        self._answering: dict[RequestId, _Incoming] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cutter = Cutter()
        self._cutting: asyncio.Task[None] | None = None
        self._writing = locks.async_mutex("upstream_pipe")
        self._pace = Pace(UNASKED_RATE, UNASKED_BURST)
        self._unasked = 0
        self._closed = False

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Reads until the peer has gone; whoever still waits for an answer is then told so."""
        handlers = _Handlers(on_request, on_notify, on_notify_intercept)
        task_status.started()
        try:
            while lines := await self._peer.read():
                for line in lines:
                    if isinstance(line, LongLine):
                        wanted = self._answered(jsonrpc.id_of(line), line)
                    elif len(line) > AT_ONCE and (asked := self._called(line)) is not None:
                        await self._cut(line, asked)
                        wanted = True
                    else:
                        wanted = self._received(line, handlers)
                    if not wanted:
                        await self._hold()
        finally:
            self._closed = True
            for task in self._tasks:
                task.cancel()
            for waiting in self._asked.values():
                _settle(waiting, None)
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._cutter.close()

    async def call(self, params: Mapping[str, Any], on_progress: OnProgress | None = None) -> dict[str, Any]:
        """The result of a tool as it came; where it is large what is passed on of it is Dumped.

        Whoever is cancelled while it waits has the request cancelled there too.

        Raises:
            MCPError: the peer's error, or the end of the connection.
            ResourceExhausted: the answer is longer than lines may be.
            ValueError: a large answer is none.
        """
        return await self._request(CALL, params, on_progress, cuts=True)

    async def _request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        on_progress: OnProgress | None,
        *,
        number: RequestId | None = None,
        can_cancel: bool = True,
        cuts: bool = False,
    ) -> dict[str, Any]:
        if number is None:
            number = next(one for one in self._numbers if one not in self._asked)
        key = coerce_request_id(number)
        if key in self._asked:
            raise ValueError(f"request id {number!r} is in flight")
        if on_progress is not None:
            params = {**(params or {}), "_meta": {**((params or {}).get("_meta") or {}), "progressToken": number}}
        asked = self._asked[key] = _Asked(asyncio.get_running_loop().create_future(), on_progress, cuts)
        try:
            await self._send(partial(jsonrpc.request, number, method, params))
            response = await asked.answer
        except asyncio.CancelledError:
            if can_cancel:
                self._post(jsonrpc.notification("notifications/cancelled", {"requestId": number}))
            raise
        finally:
            del self._asked[key]
        if response is None:
            raise _closed()
        if isinstance(response, LongLine):
            raise self._too_large(response)
        if isinstance(response, ValueError):
            raise response
        if (error := response.get("error")) is not None:
            raise MCPError(error["code"], error["message"], error.get("data"))
        result: dict[str, Any] = response["result"]
        return result

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        options = opts or {}
        told = options.get("on_progress")
        try:
            async with asyncio.timeout(options.get("timeout")):
                return await self._request(
                    method,
                    params,
                    None if told is None else partial(self._tell, told),
                    number=options.get("request_id"),
                    can_cancel=options.get("cancel_on_abandon", True),
                )
        except TimeoutError:
            raise MCPError(types.REQUEST_TIMEOUT, f"Request {method!r} timed out") from None

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        try:
            await self._send(partial(jsonrpc.notification, method, params))
        except MCPError:
            _log.debug("upstream %s has gone, %s is not sent", self._peer.name, method)

    async def _hold(self) -> None:
        """After a line that answers nothing."""
        self._unasked += 1
        if (wait := self._pace.take()) or self._unasked % TURN == 0:
            await asyncio.sleep(wait)

    def _called(self, line: bytes) -> _Asked | None:
        """The call that a large line answers, if its id can be seen without reading it."""
        number = jsonrpc.id_of(LongLine.of(line))
        asked = None if number is None else self._asked.get(coerce_request_id(number))
        return asked if asked is not None and asked.cuts else None

    async def _cut(self, line: bytes, asked: _Asked) -> None:
        """Reads the answer beside us; while there is another nothing more is taken from the peer."""
        if self._cutting is not None:
            await asyncio.wait((self._cutting,))
        self._cutting = self._spawn(self._settle_cut(line, asked))

    async def _settle_cut(self, line: bytes, asked: _Asked) -> None:
        try:
            response = await self._cutter.cut(line)
        except ValueError as error:
            _settle(asked, error)
        else:
            _settle(asked, response or ValueError(f"{len(line)} bytes that are no response"))

    def _received(self, line: bytes, handlers: "_Handlers") -> bool:
        """Whether it answers one of our requests."""
        message = jsonrpc.read(line)
        if message is not None and "method" not in message:
            return self._answered(message.get("id"), message)
        if message is None:
            self._peer.skip(line)
        elif "id" in message:
            self._ask(message, handlers)
        else:
            self._notified(message["method"], message.get("params"), handlers)
        return False

    def _answered(self, number: object, response: jsonrpc.Message | LongLine) -> bool:
        asked = self._asked.get(coerce_request_id(number)) if jsonrpc.is_id(number) else None
        if asked is not None and _settle(asked, response):
            return True
        _log.debug("upstream %s answers %r, which nobody waits for", self._peer.name, number)
        return False

    def _notified(self, method: str, params: Mapping[str, Any] | None, handlers: "_Handlers") -> None:
        if method == "notifications/progress" and params is not None:
            self._progressed(params)
        elif method == "notifications/cancelled" and params is not None and jsonrpc.is_id(params.get("requestId")):
            incoming = self._answering.get(coerce_request_id(params["requestId"]))
            if incoming is not None:
                incoming.cancel()
        if not run_notify_intercept(handlers.intercept, method, params):
            self._spawn(self._told(handlers.on_notify, method, params))

    def _progressed(self, params: Mapping[str, Any]) -> None:
        token, progress = params.get("progressToken"), params.get("progress")
        asked = self._asked.get(coerce_request_id(token)) if jsonrpc.is_id(token) else None
        if asked is None or asked.on_progress is None or not _is_number(progress):
            return
        total, message = params.get("total"), params.get("message")
        asked.on_progress(
            float(progress),
            float(total) if _is_number(total) else None,
            message if isinstance(message, str) else None,
        )

    def _ask(self, message: jsonrpc.Message, handlers: "_Handlers") -> None:
        """The peer asks; one that uses an id twice at once can cancel the later request only."""
        number = message["id"]
        key = coerce_request_id(number)
        incoming = self._answering[key] = _Incoming(number, self)
        incoming.task = self._spawn(self._answer(number, incoming, message["method"], message.get("params"), handlers))
        incoming.task.add_done_callback(lambda _: self._answering.pop(key, None))

    async def _answer(
        self,
        number: RequestId,
        incoming: "_Incoming",
        method: str,
        params: Mapping[str, Any] | None,
        handlers: "_Handlers",
    ) -> None:
        try:
            line = jsonrpc.result(number, await handlers.on_request(incoming, method, params))
        except MCPError as error:
            line = jsonrpc.error(number, error.error)
        except ValidationError:
            line = jsonrpc.error(number, types.ErrorData(code=types.INVALID_PARAMS, message="invalid params"))
        except Exception:
            _log.exception("%s of upstream %s cannot be answered", method, self._peer.name)
            line = jsonrpc.error(number, types.ErrorData(code=types.INTERNAL_ERROR, message="internal error"))
        incoming.open = False
        self._post(line)

    async def _told(self, on_notify: OnNotify, method: str, params: Mapping[str, Any] | None) -> None:
        try:
            await on_notify(_Incoming(None, self), method, params)
        except Exception:
            _log.exception("%s of upstream %s cannot be handled", method, self._peer.name)

    def _tell(self, told: ProgressFnT, progress: float, total: float | None, message: str | None) -> None:
        self._spawn(told(progress, total, message))

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        assert isinstance(work, Coroutine)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _too_large(self, line: LongLine) -> ResourceExhausted:
        return ResourceExhausted(
            f"upstream {self._peer.name!r} answered with {line.length} bytes; "
            f"at most {self._peer.longest} can be passed on",
            reason="MESSAGE_TOO_LARGE",
            metadata={"upstream": self._peer.name, "bytes": str(line.length), "max_bytes": str(self._peer.longest)},
        )

    async def _send(self, make: Callable[[], bytes]) -> None:
        """The line is made when there is room for it."""
        if self._closed:
            raise _closed()
        try:
            async with self._writing:  # one after the other: of what does not fit into the pipe there is one line
                await self._peer.drain()
                self._peer.write(make())
        except (OSError, RuntimeError):
            raise _closed() from None

    def _post(self, line: bytes) -> None:
        """Sends without waiting for room, and not at all where there is nobody any more."""
        if not self._closed:
            try:
                self._peer.write(line)
            except (OSError, RuntimeError):
                _log.debug("upstream %s has gone, an answer is not sent", self._peer.name)


@dataclass(frozen=True, slots=True)
class _Handlers:
    """Who deals with what the peer sends by itself."""

    on_request: OnRequest
    on_notify: OnNotify
    intercept: OnNotifyIntercept | None


class _Incoming:
    """What the SDK's handlers are given beside a message of the peer's."""

    transport = TransportContext(kind="stdio", can_send_request=True)
    message_metadata: MessageMetadata = None

    def __init__(self, request_id: RequestId | None, session: Session) -> None:
        self.request_id = request_id
        self.cancel_requested = anyio.Event()
        self.open = True
        self.task: asyncio.Task[None] | None = None
        self._session = session

    @property
    def can_send_request(self) -> bool:
        return self.open

    def cancel(self) -> None:
        self.cancel_requested.set()
        if self.task is not None:
            self.task.cancel()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        return await self._session.send_raw_request(method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        await self._session.notify(method, params, opts)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Nobody asks us for progress: what we are asked for is short."""


def _settle(asked: _Asked, response: _Answer) -> bool:
    """False where there is an answer already."""
    if asked.answer.done():
        return False
    asked.answer.set_result(response)
    return True


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _closed() -> MCPError:
    return MCPError(types.CONNECTION_CLOSED, "Connection closed")
