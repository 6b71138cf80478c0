"""The composition root: settings in, an ASGI application out."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import cast

import quart
from narthex.keys import KeyRing
from quart import Quart, Response
from werkzeug.exceptions import HTTPException

from narthex_bridge import gate, metrics
from narthex_bridge.asgi import Application, Front
from narthex_bridge.backend import Backend
from narthex_bridge.bus import Note
from narthex_bridge.caller import authenticator
from narthex_bridge.catalog import Catalog
from narthex_bridge.config import BridgeConfig
from narthex_bridge.connection import Connection
from narthex_bridge.dispatcher import Dispatcher
from narthex_bridge.endpoints.direct import DirectEndpoint
from narthex_bridge.endpoints.legacy import LegacyEndpoint
from narthex_bridge.endpoints.mcp import McpEndpoint
from narthex_bridge.gate import Gate, refusal
from narthex_bridge.http import HttpResponse
from narthex_bridge.metrics import Metrics
from narthex_bridge.sessions import SessionStore
from narthex_bridge.stores.choice import stores
from narthex_bridge.streams import Streams


class Bridge:
    """Everything of one bridge process; `app` is the ASGI application."""

    def __init__(self, config: BridgeConfig) -> None:
        self._config = config
        self._metrics = Metrics()
        self._stores = kept = stores(config)
        self._sessions = SessionStore(config.max_sessions, config.session_idle_s, kept.records, kept.events, kept.bus)
        self._streams = Streams(config, kept.events, kept.bus, self._metrics)
        self._metrics.sessions.set_function(lambda: len(self._sessions))
        self._connection = Connection(config, _credential(config))
        self._backend = Backend(self._connection)
        self._catalog = Catalog(self._backend, self._sessions.notify_list_changed)
        self._dispatcher = Dispatcher(self._backend, self._catalog, self._metrics, config.max_calls)
        keys = KeyRing.from_file(config.api_key_file) if config.api_key_file else None
        self._gate = Gate(config, authenticator(keys))
        self._background: list[asyncio.Task[None]] = []
        self._draining: asyncio.Task[None] | None = None
        self.app = self._application()

    async def drain(self) -> None:
        """Ends waiting streams, lets calls in work finish within the grace, and ends the rest with an error; once."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        self._dispatcher.draining = True
        self._sessions.close_streams(idle_only=True)
        await self._dispatcher.drain(self._config.shutdown_grace)
        self._sessions.close_streams(idle_only=False)
        await self._streams.settle()

    def _application(self) -> Front:
        app = Quart("narthex_bridge", static_folder=None)
        app.config["MAX_CONTENT_LENGTH"] = self._config.max_body_bytes
        app.before_serving(self._start)
        app.after_serving(self._stop)
        app.register_error_handler(HTTPException, self._http_error)
        for pattern, answer in (
            ("/healthz", self._healthz),
            ("/readyz", self._readyz),
            ("/metrics", self._exposition),
        ):
            view = self._view(pattern, answer)
            app.add_url_rule(pattern, pattern, view, methods=["GET"], provide_automatic_options=False)
        mcp = McpEndpoint(self._config, self._sessions, self._streams, self._dispatcher, self._metrics)
        legacy = LegacyEndpoint(self._config, self._sessions, self._dispatcher)
        direct = DirectEndpoint(self._config, self._catalog, self._dispatcher)
        routes = {
            ("POST", "/mcp"): mcp.post,
            ("GET", "/mcp"): mcp.get,
            ("DELETE", "/mcp"): mcp.delete,
            ("GET", "/sse"): legacy.open,
            ("POST", "/messages"): legacy.post,
            ("POST", "/mcp/stream"): direct.stream,
            ("GET", "/mcp/list"): direct.list,
        }
        for method, path in routes:
            # Known to Quart as well, so that another method is 405 and names these.
            app.add_url_rule(path, f"{method} {path}", _unreachable, methods=[method], provide_automatic_options=False)
        return Front(routes, cast(Application, app), self._gate, self._metrics, self._config.max_body_bytes)

    def _view(self, pattern: str, answer: Callable[[], Awaitable[HttpResponse]]) -> Callable[[], Awaitable[Response]]:
        counted = self._metrics.route(pattern)

        async def view() -> Response:
            started, found = time.perf_counter(), await answer()
            counted.count(quart.request.method, found.status)
            counted.answered(found.tally, len(found.body), time.perf_counter() - started)
            return _response(found)

        return view

    async def _healthz(self) -> HttpResponse:
        return HttpResponse(200, b'{"status":"ok"}')

    async def _readyz(self) -> HttpResponse:
        if self._dispatcher.draining:
            return HttpResponse(503, b'{"status":"draining"}')
        if not await self._connection.healthy():
            return HttpResponse(503, b'{"status":"the server cannot be reached or does not serve"}')
        return HttpResponse(200, b'{"status":"ready"}')

    async def _exposition(self) -> HttpResponse:
        return HttpResponse(200, self._metrics.render(), metrics.CONTENT_TYPE)

    async def _http_error(self, error: HTTPException) -> Response:
        status = error.code or 500
        allowed = tuple((name, value) for name, value in error.get_headers() if name == "Allow")
        self._metrics.route("other").count(quart.request.method, status)
        return _response(refusal(status, error.name, allowed, code=status))

    async def _start(self) -> None:
        self._background = [
            asyncio.create_task(self._catalog.watch()),
            asyncio.create_task(self._sessions.forget_idle()),
            asyncio.create_task(self._stores.bus.follow(self._hear)),
        ]

    async def _stop(self) -> None:
        await self.drain()  # calls may be in work though no connection is open: their clients may come back
        await self._sessions.settle()
        for task in self._background:
            task.cancel()
        for task in self._background:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._connection.close()
        await self._stores.events.close()

    def _hear(self, note: Note) -> None:
        (self._streams if "stream" in note else self._sessions).hear(note)


def _credential(config: BridgeConfig) -> str:
    if config.server_key_file:
        return config.server_key_file.read_text("utf-8").strip()
    return os.environ.get("NARTHEX_DELEGATE_TOKEN", "")


async def _unreachable() -> Response:
    raise AssertionError("the front answers this route")


def _response(answer: HttpResponse) -> Response:
    request_id = gate.request_id({"x-request-id": quart.request.headers.get("x-request-id", "")})
    headers = {**dict(answer.headers), "x-request-id": request_id}
    return Response(answer.body, answer.status, headers, content_type=answer.content_type)
