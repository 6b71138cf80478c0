"""The routes of MCP and of models as plain ASGI.

They carry every call and thousands of waiting streams, where a web framework's request and response objects cost more
than the call itself; everything else of the bridge is Quart's.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from narthex_bridge import gate
from narthex_bridge.faces.refusal import Headers, Refusal
from narthex_bridge.gate import Arrival, Gate, Refused
from narthex_bridge.http import HttpRequest, HttpResponse
from narthex_bridge.http1 import ON_DISCONNECT
from narthex_bridge.metrics import Metrics, RouteMetrics
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.routes import Found, Route, Routes

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Front:
    """Answers the given routes and leaves all others to the application behind it.

    A client that goes away cancels the work on its request at once.
    """

    def __init__(
        self,
        routes: Routes,
        behind: Application,
        gate: Gate,
        metrics: Metrics,
        max_body_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self._routes = routes
        self._counted = {route.pattern: metrics.route(route.pattern) for route in routes}
        self._behind = behind
        self._gate = gate
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        http = scope["type"] == "http"
        found = self._routes.find(scope["method"], scope["path"]) if http else None
        if found is not None:
            await self._serve(found, scope, receive, send)
        elif not http or scope["method"] != "OPTIONS" or not await self._preflight(scope, send):
            await self._behind(scope, receive, send)

    async def _serve(self, found: Found, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        route, counted = found.route, self._counted[found.route.pattern]
        task, finished, gone = asyncio.current_task(), False, False

        def leave() -> None:
            nonlocal gone
            if task is not None and not finished:
                gone = True
                task.cancel()

        started = time.perf_counter()
        headers = _headers(scope["headers"])
        request_id = gate.request_id(headers)
        watcher: asyncio.Task[None] | None = None
        told: Headers = ()
        try:
            try:
                admitted = await self._gate.admit(Arrival(headers, _peer(scope)), open=route.open)
            except Refused as refused:
                # A connection whose request was not read to its end cannot be used again.
                await self._body(headers, scope, receive)
                answer = route.face.refuse(refused.refusal)
            else:
                told, body = admitted.headers, await self._body(headers, scope, receive)
                query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
                watcher = _watch(scope, receive, leave)
                request = HttpRequest(scope["method"], headers, query, admitted.caller, request_id, body, found.path)
                answer = await self._answer(route, request)
                if told:
                    answer = replace(answer, headers=(*answer.headers, *told))
            counted.count(scope["method"], answer.status)
            if answer.stream is None:
                finished = True
                await _send_whole(answer, request_id, send)
                counted.answered(answer.tally, len(answer.body), time.perf_counter() - started)
            else:
                await _send_stream(answer, request_id, send, counted, scope["method"] == "GET", started)
                finished = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Refused as refused:  # while its body was read
            self._metrics.refused(refused.reason)
            answer = route.face.refuse(refused.refusal)
            counted.count(scope["method"], answer.status)
            closing = (("connection", "close"),) if scope["http_version"] < "2" else ()
            await _send_whole(replace(answer, headers=(*answer.headers, *told, *closing)), request_id, send)
        except ConnectionError:
            pass  # gone while its body was read
        except asyncio.CancelledError:
            if not gone:
                raise
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _preflight(self, scope: Mapping[str, Any], send: Send) -> bool:
        """Answers a browser that asks what it may send to one of the routes; False if this is something else."""
        headers, methods = _headers(scope["headers"]), self._routes.methods(scope["path"])
        if not methods or "origin" not in headers or "access-control-request-method" not in headers:
            return False
        route = self._routes.find(methods[0], scope["path"])
        assert route is not None
        try:
            answer = self._gate.preflight(Arrival(headers, _peer(scope)), methods)
        except Refused as refused:
            answer = route.route.face.refuse(refused.refusal)
        self._counted[route.route.pattern].count("OPTIONS", answer.status)
        await _send_whole(answer, gate.request_id(headers), send)
        return True

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

    async def _body(self, headers: Mapping[str, str], scope: Mapping[str, Any], receive: Receive) -> bytes:
        """The body of a POST. Raises Refused for one that is too large or too slow."""
        if scope["method"] != "POST":
            return b""
        return b"".join([piece async for piece in self._pieces(headers, receive)])

    async def _pieces(self, headers: Mapping[str, str], receive: Receive) -> AsyncIterator[bytes]:
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._max_body_bytes):
            raise _too_large(self._max_body_bytes)
        size, latest = 0, asyncio.get_running_loop().time() + self._body_timeout_s
        while True:
            try:
                async with asyncio.timeout_at(latest):
                    message = await receive()
            except TimeoutError:
                raise _too_slow(self._body_timeout_s) from None
            if message["type"] == "http.disconnect":
                raise ConnectionError
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._max_body_bytes:
                raise _too_large(self._max_body_bytes)
            yield piece
            if not message.get("more_body", False):
                return


def _too_large(most: int) -> Refused:
    return Refused("body_size", Refusal(413, f"The body is larger than {most} bytes.", reason="BODY_TOO_LARGE"))


def _too_slow(limit_s: float) -> Refused:
    text = f"The body did not arrive within {limit_s:g} s of its head."
    return Refused("body_time", Refusal(408, text, reason="BODY_TOO_SLOW"))


def _headers(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """By lower-case name; what comes several times is joined (RFC 9110, 5.3), so that nobody reads just one of them."""
    headers: dict[str, str] = {}
    for name, value in ((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _peer(scope: Mapping[str, Any]) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""


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
