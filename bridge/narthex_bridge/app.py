"""The composition root: settings in, an ASGI application out."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import urlsplit

import quart
from quart import Quart, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from narthex_bridge import gate, metrics
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.endpoints.direct import DirectEndpoint
from narthex_bridge.endpoints.legacy import LegacyEndpoint
from narthex_bridge.endpoints.mcp import McpEndpoint
from narthex_bridge.endpoints.metadata import MetadataEndpoint
from narthex_bridge.endpoints.stateless import StatelessEndpoint
from narthex_bridge.endpoints.welcome import welcome
from narthex_bridge.faces.anthropic.routes import anthropic_routes
from narthex_bridge.faces.candle.routes import candle_routes
from narthex_bridge.faces.mistralrs.routes import mistralrs_routes
from narthex_bridge.faces.openai.routes import openai_routes
from narthex_bridge.faces.work import Work
from narthex_bridge.gate import building
from narthex_bridge.gate.challenges import WELL_KNOWN, metadata_url
from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.http.refusal import Headers, Refusal
from narthex_bridge.http.routes import Route, Routes
from narthex_bridge.mcp.core import Core
from narthex_bridge.mcp.face import McpFace
from narthex_bridge.metrics import Metrics
from narthex_bridge.server.inference import Inference
from narthex_bridge.server.lot import Lot
from narthex_bridge.sessions.store import SessionStore
from narthex_bridge.stores.bus import Note
from narthex_bridge.stores.choice import stores
from narthex_bridge.streams.streams import Streams
from narthex_bridge.transport.body import BodyReader
from narthex_bridge.transport.front import Application, Front
from narthex_bridge.ui.boards import Boards
from narthex_bridge.ui.questions import Questions
from narthex_bridge.ui.routes import ui_routes
from narthex_bridge.ui.snapshot import Snapshot
from narthex_bridge.ui.standing import Standing


class Bridge:
    """Everything of one bridge process; `app` is the ASGI application."""

    def __init__(self, config: BridgeConfig) -> None:
        self._config = config
        self._metrics = Metrics()
        self._tracer = config.otel.tracer("narthex-bridge")
        self._stores = kept = stores(config)
        self._sessions = SessionStore(config.max_sessions, config.session_idle_s, kept.records, kept.events, kept.bus)
        self._streams = Streams(config, kept.events, kept.bus, self._metrics)
        self._metrics.sessions.set_function(lambda: len(self._sessions))
        self._core = Core(config, _credential(config), self._metrics, self._sessions.tell, self._tracer)
        self._core.changes.listen(self._sessions.list_changed)
        self._sessions.follow(self._core.restored, self._core.ended)
        self._work = Work(config.max_calls)
        self._gate = building.gate(config, self._metrics.refused)
        questions = Questions(self._core.connection)
        self._boards = Boards(
            lambda caller: Snapshot(caller, questions, self._standing, chat=config.openai).take, config.keepalive_s
        )
        self._background: list[asyncio.Task[None]] = []
        self._draining: asyncio.Task[None] | None = None
        self.app = self._application()

    async def drain(self) -> None:
        """Ends waiting streams, lets calls in work finish within the grace, and ends the rest with an error; once."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        self._core.dispatcher.draining = True
        self._boards.close()
        self._sessions.close_streams(idle_only=True)
        grace = self._config.shutdown_grace
        await asyncio.gather(self._core.dispatcher.drain(grace), self._work.drain(grace))
        self._sessions.close_streams(idle_only=False)
        await self._streams.settle()

    def _application(self) -> Front:
        app = Quart("narthex_bridge", static_folder=None)
        app.url_map.merge_slashes = False  # else there are redirects, to whatever the Host header says
        app.config["MAX_CONTENT_LENGTH"] = self._config.max_body_bytes
        app.before_serving(self._start)
        app.after_serving(self._stop)
        app.register_error_handler(HTTPException, self._http_error)
        for pattern, answer in (
            ("/healthz", self._healthz),
            ("/readyz", self._readyz),
            ("/", self._welcome),
            *((("/health", self._health),) if self._config.mistralrs else ()),
        ):
            view = self._view(pattern, answer)
            app.add_url_rule(pattern, pattern, view, methods=["GET"], provide_automatic_options=False)
        self._routes = Routes(self._faces())
        for route in self._routes:
            # Known to Quart as well, so that another method is 405 and names these.
            rule = route.pattern.replace("{", "<path:").replace("}", ">")
            name = f"{route.method} {rule}"
            app.add_url_rule(rule, name, _no_head, methods=[route.method], provide_automatic_options=False)
        bodies = BodyReader(self._config.max_body_bytes, self._config.body_timeout_s)
        return Front(self._routes, cast(Application, app), self._gate, bodies, self._metrics, self._tracer)

    def _faces(self) -> list[Route]:
        """What is answered under which path, as far as it is switched on."""
        config, core, face = self._config, self._core, McpFace()
        stateless = StatelessEndpoint(config, core.catalog, core.dispatcher)
        mcp = McpEndpoint(config, self._sessions, self._streams, core.dispatcher, self._metrics, stateless)
        routes = [
            Route("GET", "/metrics", self._exposition, face),
            Route("POST", "/mcp", mcp.post, face),
            Route("GET", "/mcp", mcp.get, face),
            Route("DELETE", "/mcp", mcp.delete, face),
        ]
        if config.legacy_sse:
            legacy = LegacyEndpoint(config, self._sessions, core.dispatcher)
            routes += [Route("GET", "/sse", legacy.open, face), Route("POST", "/messages", legacy.post, face)]
        if config.direct:
            direct = DirectEndpoint(config, core.catalog, core.dispatcher)
            routes += [
                Route("POST", "/mcp/stream", direct.stream, face),
                Route("GET", "/mcp/list", direct.list, face),
            ]
        if config.oauth.issuers:
            metadata = MetadataEndpoint(config.oauth).get
            paths = {WELL_KNOWN, f"{WELL_KNOWN}/mcp", urlsplit(metadata_url(config.oauth.resource)).path}
            routes += [Route("GET", path, metadata, face, open=True) for path in paths]
        inference, lot = Inference(core.connection), Lot(core.connection)
        if config.openai:  # before the other faces: what is unknown under /v1 is refused in its words
            routes += openai_routes(config, inference, core.backend, lot, self._work)
            routes += candle_routes(lot)
        if config.anthropic:
            routes += anthropic_routes(config, inference, core.backend, self._work)
        if config.mistralrs:
            routes += mistralrs_routes(inference, self._work)
        if config.ui:
            routes += ui_routes(self._boards)
        return routes

    def _standing(self) -> Standing:
        config, dispatcher = self._config, self._core.dispatcher
        return Standing(
            len(self._sessions), config.max_sessions, len(dispatcher), len(self._work), config.max_calls,
            dispatcher.draining,
        )  # fmt: skip

    def _view(self, pattern: str, answer: Callable[[], Awaitable[HttpResponse]]) -> Callable[[], Awaitable[Response]]:
        counted = self._metrics.route(pattern)

        async def view() -> Response:
            started, found = time.perf_counter(), await answer()
            counted.count(quart.request.method, found.status)
            counted.answered(found.tally, len(found.body), time.perf_counter() - started)
            return _response(found)

        return view

    async def _welcome(self) -> HttpResponse:
        return welcome(rule.rule for rule in quart.current_app.url_map.iter_rules())

    async def _healthz(self) -> HttpResponse:
        return HttpResponse(200, b'{"status":"ok"}')

    async def _health(self) -> HttpResponse:
        return HttpResponse(200, b"OK", "text/plain")

    async def _readyz(self) -> HttpResponse:
        if self._core.dispatcher.draining:
            return HttpResponse(503, b'{"status":"draining"}')
        if not await self._core.connection.healthy():
            return HttpResponse(503, b'{"status":"the server cannot be reached or does not serve"}')
        return HttpResponse(200, b'{"status":"ready"}')

    async def _exposition(self, _: HttpRequest) -> HttpResponse:
        return HttpResponse(200, await asyncio.to_thread(self._metrics.render), metrics.CONTENT_TYPE)

    async def _http_error(self, error: HTTPException) -> Response:
        status = error.code or 500
        allowed: Headers = ()
        if isinstance(error, MethodNotAllowed):  # Quart adds HEAD to every GET; the front's routes have none
            methods = self._routes.methods(quart.request.path) or error.valid_methods or ()
            allowed = (("allow", ", ".join(methods)),)
        self._metrics.route("other").count(quart.request.method, status)
        face = self._routes.face(quart.request.path)
        return _response(face.refuse(Refusal(status, error.name, allowed)))

    async def _start(self) -> None:
        await self._core.start()
        self._background = [
            asyncio.create_task(self._sessions.forget_idle()),
            asyncio.create_task(self._stores.bus.follow(self._hear)),
            asyncio.create_task(self._metrics.watch_loop()),
        ]

    async def _stop(self) -> None:
        await self.drain()  # calls may be in work though no connection is open: their clients may come back
        await self._sessions.settle()
        for task in self._background:
            task.cancel()
        for task in self._background:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._core.close()
        await asyncio.to_thread(self._tracer.close)
        await self._gate.close()
        await self._stores.events.close()

    def _hear(self, note: Note) -> None:
        (self._streams if "stream" in note else self._sessions).hear(note)


def _credential(config: BridgeConfig) -> str:
    if config.server_key_file:
        return config.server_key_file.read_text("utf-8").strip()
    return os.environ.get("NARTHEX_DELEGATE_TOKEN", "")


async def _no_head(**_: str) -> Response:
    """The front answers these routes; what comes here is HEAD, which is added to every GET."""
    raise MethodNotAllowed


def _response(answer: HttpResponse) -> Response:
    request_id = gate.request_id({"x-request-id": quart.request.headers.get("x-request-id", "")})
    headers = {**dict(answer.headers), "x-request-id": request_id}
    return Response(answer.body, answer.status, headers, content_type=answer.content_type)
