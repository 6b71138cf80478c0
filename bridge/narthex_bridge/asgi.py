"""The routes of MCP traffic as plain ASGI.

They carry every call and thousands of waiting streams, where a web framework's request and response objects cost more
than the call itself; everything else of the bridge is Quart's.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from narthex_bridge import gate
from narthex_bridge.gate import Gate, refusal
from narthex_bridge.http import HttpRequest, HttpResponse
from narthex_bridge.http1 import ON_DISCONNECT
from narthex_bridge.metrics import Metrics, RouteMetrics
from narthex_bridge.protocol import jsonrpc

logger = logging.getLogger(__name__)

Endpoint = Callable[[HttpRequest], Awaitable[HttpResponse]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class BodyTooLarge(Exception):
    """The request's body is larger than allowed."""


class Front:
    """Answers the given routes and leaves all others to the application behind it.

    A client that goes away cancels the work on its request at once.
    """

    def __init__(
        self,
        routes: Mapping[tuple[str, str], Endpoint],
        behind: Application,
        gate: Gate,
        metrics: Metrics,
        max_body_bytes: int,
    ) -> None:
        self._routes = {(method, path): (endpoint, metrics.route(path)) for (method, path), endpoint in routes.items()}
        self._behind = behind
        self._gate = gate
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._behind(scope, receive, send)
            return
        endpoint, counted = route
        task, finished, gone = asyncio.current_task(), False, False

        def leave() -> None:
            nonlocal gone
            if task is not None and not finished:
                gone = True
                task.cancel()

        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = gate.request_id(headers)
        watcher: asyncio.Task[None] | None = None
        try:
            caller = self._gate.admit(headers)
            pieces = self._pieces(headers, receive) if scope["method"] == "POST" else None
            if isinstance(caller, HttpResponse):
                # A connection whose request was not read to its end cannot be used again.
                if pieces:
                    async for _ in pieces:
                        pass
                answer = caller
            else:
                body = b"".join([piece async for piece in pieces]) if pieces else b""
                query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
                watcher = _watch(scope, receive, leave)
                answer = await self._answer(
                    endpoint, HttpRequest(scope["method"], headers, query, caller, request_id, body)
                )
            counted.count(scope["method"], answer.status)
            if answer.stream is None:
                finished = True
                await _send_whole(answer, request_id, send)
                counted.answered(answer.tally, len(answer.body), time.perf_counter() - started)
            else:
                await _send_stream(answer, request_id, send, counted, scope["method"] == "GET", started)
                finished = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except BodyTooLarge:
            answer = refusal(413, f"The body is larger than {self._max_body_bytes} bytes.", (("connection", "close"),))
            counted.count(scope["method"], 413)
            await _send_whole(answer, request_id, send)
        except ConnectionError:
            pass  # gone while its body was read
        except asyncio.CancelledError:
            if not gone:
                raise
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _answer(self, endpoint: Endpoint, request: HttpRequest) -> HttpResponse:
        try:
            return await endpoint(request)
        except Exception:
            logger.exception("request %s failed", request.request_id)
            text = f"The bridge failed to do this; its log has more under request id {request.request_id}."
            return refusal(500, text, code=jsonrpc.INTERNAL_ERROR)

    async def _pieces(self, headers: Mapping[str, str], receive: Receive) -> AsyncIterator[bytes]:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise BodyTooLarge
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._max_body_bytes:
                raise BodyTooLarge
            yield piece
            if not message.get("more_body", False):
                return


def _watch(scope: Mapping[str, Any], receive: Receive, leave: Callable[[], None]) -> asyncio.Task[None] | None:
    """Has `leave` called when the client goes: by the server where it can, else by a task, which costs each request."""
    if (on_disconnect := scope["extensions"].get(ON_DISCONNECT)) is not None:
        on_disconnect(leave)
        return None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        leave()

    return asyncio.create_task(watch())


async def _send_whole(answer: HttpResponse, request_id: str, send: Send) -> None:
    length = (b"content-length", str(len(answer.body)).encode())
    await send(_start(answer, request_id, length))
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


async def _send_stream(
    answer: HttpResponse, request_id: str, send: Send, counted: RouteMetrics, waiting: bool, started: float
) -> None:
    assert answer.stream is not None
    sent = 0
    counted.streams.inc()
    try:
        async with contextlib.aclosing(answer.stream):
            await send(_start(answer, request_id))
            async for piece in answer.stream:
                sent += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        counted.streams.dec()
        counted.answered(answer.tally, sent, None if waiting else time.perf_counter() - started)


def _start(answer: HttpResponse, request_id: str, *more: tuple[bytes, bytes]) -> dict[str, Any]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers += [(b"content-type", answer.content_type.encode()), (b"x-request-id", request_id.encode()), *more]
    return {"type": "http.response.start", "status": answer.status, "headers": headers}
