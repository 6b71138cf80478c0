"""The routes of MCP and of models as plain ASGI.

They carry every call and thousands of waiting streams, where a web framework's request and response objects cost more
than the call itself; everything else of the bridge is Quart's.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from narthex_bridge import gate
from narthex_bridge.faces.refusal import Refusal
from narthex_bridge.gate import Gate
from narthex_bridge.http import HttpRequest, HttpResponse
from narthex_bridge.metrics import Metrics, RouteMetrics
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.routes import Route, Routes

logger = logging.getLogger(__name__)

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
        routes: Sequence[Route],
        behind: Application,
        gate: Gate,
        metrics: Metrics,
        max_body_bytes: int,
    ) -> None:
        self._routes = Routes(routes)
        self._counted = {route.pattern: metrics.route(route.pattern) for route in routes}
        self._behind = behind
        self._gate = gate
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        found = self._routes.find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._behind(scope, receive, send)
            return
        route, counted = found.route, self._counted[found.route.pattern]
        task, finished, gone = asyncio.current_task(), False, False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            if task is not None and not finished:
                gone = True
                task.cancel()

        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = gate.request_id(headers)
        watcher: asyncio.Task[None] | None = None
        try:
            pieces = self._pieces(headers, receive) if scope["method"] == "POST" else None
            try:
                caller = self._gate.admit(headers, route.key_header)
            except Refusal as refusal:
                # A connection whose request was not read to its end cannot be used again.
                if pieces:
                    async for _ in pieces:
                        pass
                answer = route.face.refuse(refusal)
            else:
                body = b"".join([piece async for piece in pieces]) if pieces else b""
                query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
                watcher = asyncio.create_task(watch())
                request = HttpRequest(scope["method"], headers, query, caller, request_id, body, found.path)
                answer = await self._answer(route, request)
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
            text = f"The body is larger than {self._max_body_bytes} bytes."
            answer = route.face.refuse(Refusal(413, text, (("connection", "close"),), reason="BODY_TOO_LARGE"))
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

    async def _answer(self, route: Route, request: HttpRequest) -> HttpResponse:
        try:
            return await route.endpoint(request)
        except Refusal as refusal:
            return route.face.refuse(refusal)
        except BackendError as failure:
            return route.face.refuse(Refusal.of(failure))
        except Exception:
            logger.exception("request %s failed", request.request_id)
            text = f"The bridge failed to do this; its log has more under request id {request.request_id}."
            return route.face.refuse(Refusal(500, text, reason="INTERNAL"))

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
