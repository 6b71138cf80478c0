"""One upstream MCP server, kept running: connected, listed, called, and connected again when it is lost."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Iterator
from contextlib import (
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from importlib.metadata import version
from time import time
from traceback import format_exception
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from narthex_server.errors import NarthexError, Unavailable
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.audience import Audience
from narthex_server.tools.completion import Completion, Reference, Typed
from narthex_server.tools.failures import down
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.server import ServerState, ServerStatus, SharedServer, Vitals
from narthex_server.tools.tool import CallContext, InputRequired, Tool, ToolEvent
from narthex_server.tools.upstream.backoff import STABLE, pause
from narthex_server.tools.upstream.breaker import Breaker
from narthex_server.tools.upstream.calls import Calls
from narthex_server.tools.upstream.client import Client, Connecting, connected, dispatching
from narthex_server.tools.upstream.configured import Configured
from narthex_server.tools.upstream.exchange import Exchange
from narthex_server.tools.upstream.guard import Guard, Passage
from narthex_server.tools.upstream.health import Health
from narthex_server.tools.upstream.listing import Listing, Part, listed
from narthex_server.tools.upstream.liveness import ask
from narthex_server.tools.upstream.reasons import reason_of
from narthex_server.tools.upstream.requests import Requests
from narthex_server.tools.upstream.sampler import Sampler
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.source import Http, Process, ServerSource, WebSocket
from narthex_server.tools.upstream.subscriptions import Subscriptions
from narthex_server.tools.upstream.transports import http, stdio, websocket
from narthex_server.tools.upstream.transports.link import Link

LOOK_INTERVAL = 30.0
"""Seconds after which a server behind a URL is listed again, as not every one tells of changes."""

LISTING_PAUSE = 0.5
"""Seconds between two listings of a server that says again and again that it is another."""

STOP_TIMEOUT = 10.0

VERSION = version("narthex")

_log = logging.getLogger(__name__)


class Upstream(SharedServer):
    """An UpstreamServer over MCP; used on the event loop only."""

    def __init__(self, source: ServerSource, sampler: Sampler | None = None, locks: Locks = UNMETERED) -> None:
        self._source = source
        self._locks = locks
        self._status = ServerStatus(
            source.name, source.transport.scheme, ServerState.STOPPED, scope=source.scope or "shared"
        )
        self._configured = Configured(source)
        self._guard = Guard(source.name, Breaker(source.breaker) if source.breaker else None)
        self._health = Health(source.health) if source.health else None
        self._listing = Listing()
        self._edition: Hashable = object()
        self._stale: set[Part] = set()  # to be listed again
        self._changed: Callable[[], None] = _nobody
        self._updated: Callable[[str], None] = _nobody
        self._secrets = Secrets()
        exchange = Exchange(source, self._secrets, sampler)  # one for all: it knows whom the server may ask
        self._calls = Calls(source, exchange, self._secrets, sampler)
        self._requests = Requests(source, exchange)
        self._subscriptions = Subscriptions(source.name, source.call_seconds, self._missed, self._on_updated)
        self._settled = asyncio.Event()
        self._retry = asyncio.Event()
        self._signal = asyncio.Event()  # the connection ended, or something is to be listed again
        self._over = asyncio.Event()  # the connection ended
        self._ended = ""  # why it did, as far as known
        self._running: asyncio.Task[None] | None = None
        self._stopping = False
        self._came_up = False  # this connection, at least for a while
        self._attempts = 0  # that failed, or did not hold
        self._starts = 0  # all attempts
        self._connections = 0  # those that came up
        self._refused = ""  # what the transport knows better than the session
        self._pid = 0  # above all of its processes

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def presentation(self) -> Presentation:
        return self._source.presentation

    @property
    def tenants(self) -> Audience:
        return self._source.tenants

    @property
    def status(self) -> ServerStatus:
        return self._status

    @property
    def vitals(self) -> Vitals:
        breaker, process = self._guard.breaker, isinstance(self._source.transport, Process)
        return Vitals(
            breaker=breaker.state if breaker else None,
            breaker_retry=time() + wait if breaker and (wait := breaker.retry_after) else 0.0,
            trips=breaker.trips if breaker else 0,
            reconnects=max(0, self._connections - 1),
            restarts=max(0, self._starts - 1) if process else 0,
            failed_checks=self._health.failures if self._health else 0,
            last_success=self._guard.last_success,
            processes=(self._pid,) if self._pid else (),
        )

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self._listing.tools

    @property
    def cache(self) -> CacheRule | None:
        return self._source.cache if self._source.sampling != "model" else None  # which may say anything

    @property
    def has_resources(self) -> bool:
        return self._listing.has_resources

    @property
    def resources(self) -> tuple[Resource, ...]:
        return self._listing.resources

    @property
    def templates(self) -> tuple[ResourceTemplate, ...]:
        return self._listing.templates

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self._listing.prompts

    def edition(self, context: CallContext) -> Hashable:
        return self._edition

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._set(ServerState.STARTING)
        self._running = asyncio.create_task(self._run(), name=f"upstream {self.name}")

    async def settled(self) -> None:
        await self._settled.wait()

    def reconnect(self, tenant: str | None = None) -> None:
        if self._running is None:
            return
        self._settled.clear()
        self._attempts = 0
        if self._guard.breaker is not None:
            self._guard.breaker.reset()
        self._retry.set()
        self._end("reconnecting as asked")

    async def drain(self, grace: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._guard.idle(), grace)

    async def stop(self) -> None:
        self._stopping = True
        self._retry.set()
        self._end("stopping")
        if self._running is not None:
            if self._calls.client is None:
                self._running.cancel()  # it is connecting, which may take long, or waiting to
            _, pending = await asyncio.wait({self._running}, timeout=STOP_TIMEOUT)
            for task in pending:
                task.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._settled.set()  # there will be no other attempt
        self._set(ServerState.STOPPED)

    def call(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncGenerator[ToolEvent]:
        return self._calls.run(tool, arguments, context, self._connected)

    async def read(self, uri: str, context: CallContext) -> Contents | InputRequired:
        with self._connected(context):
            return await self._requests.read(uri, context)

    async def fill(self, prompt: str, arguments: dict[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        with self._connected(context):
            return await self._requests.fill(prompt, arguments, context)

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        with self._connected(context):
            return await self._requests.complete(reference, typed, context)

    def watch(self, uris: frozenset[str], updated: Callable[[str], None]) -> None:
        self._updated = updated
        self._subscriptions.want(uris)

    async def watching(self) -> None:
        await self._subscriptions.settled()

    @contextmanager
    def _connected(self, context: CallContext) -> Iterator[Passage]:
        """Raises Unavailable when there is no connection, or when it is lost inside the block."""
        if self._status.state is not ServerState.READY:
            raise down(self._status)
        try:
            with self._guard.around(self._connections, context) as passage:
                yield passage
        except MCPError as error:
            self._end(f"the connection was lost: {error.message}")
            raise down(self._status) from None
        except NarthexError as error:
            raise self._secrets.hide_in(error) from None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        told = ""
        while not self._stopping:
            self._retry.clear()
            self._signal.clear()
            self._over.clear()
            self._stale.clear()
            self._starts += 1
            self._ended = self._refused = ""
            self._came_up = False
            began = loop.time()
            try:
                reason = await self._connection()
            except (Exception, asyncio.CancelledError) as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                _log.debug("upstream %s: %s", self.name, self._secrets.hide("".join(format_exception(error))))
                reason = self._told(self._said() or reason_of(error, self._source))
                if not self._came_up:  # the end of one that did says nothing of the attempt that `reconnect` asks for
                    self._settled.set()
            if self._stopping:
                return
            self._attempts = 1 if loop.time() - began > STABLE else self._attempts + 1
            delay = pause(self._attempts)
            self._set(ServerState.UNHEALTHY, reason, next_attempt=time() + delay)
            level = logging.DEBUG if reason == told else logging.WARNING  # one line for one trouble
            _log.log(level, "upstream %s is down, next attempt in %.1f s: %s", self.name, delay, reason)
            told = reason
            with suppress(TimeoutError):
                await asyncio.wait_for(self._retry.wait(), delay)

    async def _connection(self) -> str:
        """Lives as long as one connection does; returns why it ended."""
        limit = self._source.start_timeout
        asks = self._calls
        connecting = connected(
            self._dispatcher(),
            handshake=self._source.protocol in ("handshake", "2025-11-25"),
            info=types.Implementation(name="narthex", version=VERSION),
            logging_callback=asks.on_log,
            sampling_callback=None if self._source.sampling == "refuse" else asks.on_sampling,
            sampling_capabilities=types.SamplingCapability(tools=types.SamplingToolsCapability()),
            elicitation_callback=asks.on_elicitation,
            list_roots_callback=asks.on_roots,
            message_handler=self._on_message,
        )
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(limit):
                client = await stack.enter_async_context(connecting)
                self._check(client.protocol_version)
                self._listing = await listed(client, self.name, limit, set(Part), Listing())
            await stack.enter_async_context(_running(self._subscriptions.run(client)))
            stack.callback(self._calls.disconnect)
            self._calls.connect(client)
            stack.callback(self._requests.disconnect)
            self._requests.client = client
            if self._health is not None:
                await stack.enter_async_context(_running(self._watch(self._health, client)))
            self._connections += 1
            info = client.session.server_info
            named = (info.name, info.version) if info else ("", "")
            _log.info("upstream %s is ready with %d tools", self.name, len(self.tools))
            while True:
                self._set(ServerState.READY, protocol=client.protocol_version, named=named)
                self._came_up = True
                self._settled.set()
                await self._signalled()
                if not self._ended:
                    await self._list_again(client, limit)
                if self._ended:  # possibly while they were listed
                    return self._ended

    async def _list_again(self, client: Client, limit: float) -> None:
        """Raises TimeoutError; returns at once when the connection ends."""
        stale, self._stale = self._stale or set(Part), set()
        over = asyncio.create_task(self._over.wait())
        listing = asyncio.create_task(listed(client, self.name, limit, stale, self._listing))
        try:
            async with asyncio.timeout(limit):
                await asyncio.wait({over, listing}, return_when=asyncio.FIRST_COMPLETED)
            if listing.done():
                before, self._listing = self._listing, listing.result()
                if self._listing.tools != before.tools:
                    self._edition = object()
        finally:
            for task in (over, listing):
                task.cancel()
            await asyncio.gather(over, listing, return_exceptions=True)

    def _check(self, version: str) -> None:
        wanted = self._source.protocol
        if wanted not in ("auto", "handshake", version):
            raise Unavailable(f"speaks version {version} of the protocol, and is to be spoken to in {wanted} only")

    async def _watch(self, health: Health, client: Client) -> None:
        self._end(await health.watch(lambda: ask(client), lambda: self._guard.busy))

    async def _signalled(self) -> None:
        """Returns when there is news, and not twice in a short time unless it is the end."""
        silence = None if isinstance(self._source.transport, Process) else LOOK_INTERVAL
        since = asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._signal.wait(), silence)
        early = since + LISTING_PAUSE - asyncio.get_running_loop().time()
        if early > 0 and not self._ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), early)
        self._signal.clear()

    def _dispatcher(self) -> Connecting:
        link = Link(self.name, self._secrets, self._end, self._refuse, self._locks)
        match self._source.transport:
            case Process() as process:
                return stdio.connect(process, self._source.max_bytes, link, self._runs_as)
            case Http() as remote:
                return dispatching(http.connect(remote, link))
            case WebSocket() as socket:
                return dispatching(websocket.connect(socket, link))
            case other:
                raise AssertionError(f"{type(other).__name__} is not MCP")

    async def _on_message(self, message: object) -> None:
        match message:
            case types.ToolListChangedNotification():
                self._edition = object()
                self._missed(Part.TOOLS)
            case types.ResourceListChangedNotification():
                self._missed(Part.RESOURCES)
            case types.PromptListChangedNotification():
                self._missed(Part.PROMPTS)
            case types.ResourceUpdatedNotification():
                self._on_updated(str(message.params.uri))

    def _missed(self, *parts: Part) -> None:
        """These lists, or all of them, may be others now."""
        self._stale |= set(parts or Part)
        self._signal.set()

    def _on_updated(self, uri: str) -> None:
        self._updated(uri)

    def _end(self, reason: str) -> None:
        reason = self._told(reason)
        self._ended = self._ended or reason
        self._over.set()
        self._signal.set()
        if self._status.state is ServerState.READY:
            self._set(ServerState.UNHEALTHY, reason)

    def _runs_as(self, pid: int) -> None:
        self._pid = pid

    def _refuse(self, status: str) -> None:
        self._refused = status

    def _told(self, reason: str) -> str:
        return self._configured.hide(self._secrets.hide(reason))

    def _said(self) -> str:
        """What the transport gave as the reason of the end, if it did."""
        if self._refused:
            return f"refused the connection: {self._refused}"
        return self._ended

    def _set(
        self,
        state: ServerState,
        reason: str = "",
        protocol: str = "",
        named: tuple[str, str] | None = None,
        next_attempt: float = 0.0,
    ) -> None:
        before = self._status
        if before.state is ServerState.READY is not state:
            self._edition = object()  # what comes next may be another, whatever it says of itself
        name, release = named or (before.server_name, before.server_version)
        self._status = ServerStatus(
            self.name,
            before.transport,
            state,
            reason,
            len(self.tools),
            protocol or before.protocol_version,
            0 if state is ServerState.READY else self._attempts,
            self._source.scope or "shared",
            int(state is ServerState.READY),
            _place(self._source),
            name,
            release,
            before.since if state is before.state and before.since else time(),
            next_attempt,
        )
        self._changed()


def _place(source: ServerSource) -> str:
    return os.path.abspath(source.transport.cwd or ".") if isinstance(source.transport, Process) else ""


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Runs `work` beside the block and ends it with the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _nobody(*_: str) -> None:
    pass
