"""The routes of MCP and of models as plain ASGI.

They carry every call and thousands of waiting streams, where a web framework's request and response objects cost more
than the call itself; everything else of the bridge is Quart's.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from narthex.tracing.context import TRACE, TraceContext
from narthex.tracing.span import Tracer

from narthex_bridge.gate import Arrival, Gate
from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.http.refusal import Headers, Refusal, Refused
from narthex_bridge.http.routes import Found, Route, Routes
from narthex_bridge.metrics import Metrics
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.transport.body import BodyReader
from narthex_bridge.transport.departure import Departure
from narthex_bridge.transport.incoming import Incoming, Receive, Scope, Send
from narthex_bridge.upstream_tokens import UPSTREAM_TOKENS, tokens_in

logger = logging.getLogger(__name__)

SERVER_ERROR = 500
"""The first status that says the fault is here."""

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Front:
    """Answers the given routes and leaves all others to the application behind it.

    A client that goes away cancels the work on its request at once.
    """

    def __init__(
        self, routes: Routes, behind: Application, gate: Gate, bodies: BodyReader, metrics: Metrics, tracer: Tracer
    ) -> None:
        self._routes = routes
        self._behind = behind
        self._gate = gate
        self._bodies = bodies
        self._metrics = metrics
        self._tracer = tracer
        self._counted = {route.pattern: metrics.route(route.pattern) for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await self._no_websocket(Incoming.of(scope, receive, send))
        if scope["type"] != "http":
            return await self._behind(scope, receive, send)
        if not scope["path"].startswith("/") or scope["path"].startswith("//"):
            scope = {**scope, "path": _path(scope["path"])}
        found = self._routes.find(scope["method"], scope["path"])
        if found is not None:
            await self._serve(found, scope, receive, send)
        elif scope["method"] != "OPTIONS" or not await self._preflight(scope, receive, send):
            await self._behind(scope, receive, send)

    async def _no_websocket(self, incoming: Incoming) -> None:
        answer = self._routes.face(incoming.scope["path"]).refuse(
            Refusal(400, "There are no WebSockets here; use HTTP.")
        )
        self._metrics.route("other").count("GET", answer.status)
        await incoming.refuse_websocket(answer)

    async def _serve(self, found: Found, scope: Scope, receive: Receive, send: Send) -> None:
        departure, incoming = Departure(), Incoming.of(scope, receive, send)
        parent = TraceContext.of(incoming.headers)
        attributes = {"http.request.method": incoming.method, "http.route": found.route.pattern}
        with self._tracer.span(f"{incoming.method} {found.route.pattern}", "server", parent, attributes) as span:
            TRACE.set(span.context)
            try:
                answer = await self._admit(found, incoming, departure)
                span.note("http.response.status_code", answer.status)
                if answer.status >= SERVER_ERROR:
                    span.fail(str(answer.status))
                await self._send(found.route, answer, incoming, departure)
            except ConnectionError:
                pass  # gone while its body was read
            except asyncio.CancelledError:
                if not departure.gone:
                    raise
            finally:
                departure.close()

    async def _admit(self, found: Found, incoming: Incoming, departure: Departure) -> HttpResponse:
        """The answer to a request, whether it may pass or not. Raises ConnectionError."""
        route, told = found.route, Headers()
        try:
            try:
                admitted = await self._gate.admit(Arrival(incoming.headers, incoming.peer), open=route.open)
            except Refused as refused:
                # A connection whose request was not read to its end cannot be used again.
                await self._bodies.read(incoming)
                return route.face.refuse(refused.refusal)
            told = admitted.headers
            UPSTREAM_TOKENS.set(tokens_in(incoming.headers))
            body = await self._bodies.read(incoming)
        except Refused as refused:  # while its body was read
            self._metrics.refused(refused.reason)
            closing = (("connection", "close"),) if incoming.scope["http_version"] < "2" else ()
            return _telling(route.face.refuse(refused.refusal), (*told, *closing))
        departure.watch(incoming)
        request = HttpRequest(
            incoming.method, incoming.headers, incoming.query, admitted.caller, incoming.request_id, body, found.path
        )
        return _telling(await self._answer(route, request), told)

    async def _answer(self, route: Route, request: HttpRequest) -> HttpResponse:
        """The endpoint's answer; each failure in the words of the route's face."""
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

    async def _send(self, route: Route, answer: HttpResponse, incoming: Incoming, departure: Departure) -> None:
        counted, sent = self._counted[route.pattern], len(answer.body)
        counted.count(incoming.method, answer.status)
        if answer.stream is None:
            departure.answered()
            await incoming.answer(answer)
            counted.answered(answer.tally, sent, incoming.seconds)
            return
        counted.streams.inc()
        try:
            async with contextlib.aclosing(answer.stream):
                await incoming.begin(answer)
                async for piece in answer.stream:
                    sent += len(piece)
                    await incoming.go_on(piece)
        finally:
            counted.streams.dec()
            # A GET waits for whatever may come: how long says nothing.
            counted.answered(answer.tally, sent, None if incoming.method == "GET" else incoming.seconds)
        departure.answered()
        await incoming.end()

    async def _preflight(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answers a browser that asks what it may send to one of the routes; False if this is something else."""
        incoming, methods = Incoming.of(scope, receive, send), self._routes.methods(scope["path"])
        if not methods or not {"origin", "access-control-request-method"} <= incoming.headers.keys():
            return False
        found = self._routes.find(methods[0], scope["path"])
        assert found is not None
        try:
            answer = self._gate.preflight(Arrival(incoming.headers, incoming.peer), methods)
        except Refused as refused:
            answer = found.route.face.refuse(refused.refusal)
        self._counted[found.route.pattern].count("OPTIONS", answer.status)
        await incoming.answer(answer)
        return True


def _path(target: str) -> str:
    """The path of what a proxy may send, a whole URL, or of a base URL that ended with a slash too many."""
    _, whole, rest = target.partition("://")
    path = rest.partition("/")[2] if whole and not target.startswith("/") else target
    return "/" + path.lstrip("/")


def _telling(answer: HttpResponse, headers: Headers) -> HttpResponse:
    return replace(answer, headers=(*answer.headers, *headers)) if headers else answer
