"""Hypercorn as the bridge runs it: its connections, TLS and HTTP/2, with a shorter way for plain HTTP/1.1 requests."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.typing import Event as WorkerEvent
from hypercorn.utils import parse_socket_addr

from narthex_bridge.transport.http1 import Http1Protocol

LAST_S = 1.0
"""What connections that were cut off have to close, also those whose client reads nothing."""

AT_ONCE, AHEAD = 64 * 1024, 64 * 1024
"""Bytes that are read at once, and those that are read ahead of a request in work."""


class ClientGone(Exception):
    """The client has closed its side of the connection."""


async def serve(application: Any, config: Config, *, shutdown_trigger: Callable[[], Awaitable[None]]) -> None:
    """Serves an ASGI application until `shutdown_trigger` returns; requests in work then have `graceful_timeout`."""
    loop, context, state = asyncio.get_running_loop(), WorkerContext(None), cast(LifespanState, {})
    app = ASGIWrapper(application)
    lifespan = Lifespan(app, config, loop, state)
    living = loop.create_task(lifespan.handle_lifespan())
    await lifespan.wait_for_startup()
    if living.done() and (failure := living.exception()) is not None:
        raise failure
    connections: dict[asyncio.Task[None], Connection] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        connections[task] = connection = Connection(app, loop, config, context, state, reader, writer)
        try:
            await connection.run()
        finally:
            del connections[task]

    sockets = config.create_sockets()
    tls = config.create_ssl_context() if config.ssl_enabled else None
    servers = [
        await asyncio.start_server(
            connected,
            backlog=config.backlog,
            sock=sock,
            ssl=tls,
            ssl_handshake_timeout=config.ssl_handshake_timeout if tls else None,
        )
        for sock in (sockets.secure_sockets if tls else sockets.insecure_sockets)
    ]
    try:
        await shutdown_trigger()
    finally:
        await context.terminated.set()
        for server in servers:
            server.close()
        for connection in connections.values():
            connection.close_if_idle()
        if connections:
            await asyncio.wait(connections, timeout=config.graceful_timeout)
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections, timeout=LAST_S)
        await lifespan.wait_for_shutdown()
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


class Connection(TCPServer):
    """One connection; while it is idle it has a timer, and no task."""

    _timer: asyncio.TimerHandle | None = None
    _ahead = b""  # what came while a request was in work
    _left = False  # by the client; an answer that comes later makes it no idle connection

    async def run(self) -> None:
        try:
            socket, tls = self.writer.get_extra_info("socket"), self.writer.get_extra_info("ssl_object")
            async with TaskGroup(self.loop) as self._task_group:
                self.protocol = _Protocol(
                    self.app,
                    self.config,
                    self.context,
                    self._task_group,
                    ConnectionState(self.state),
                    tls is not None,
                    parse_socket_addr(socket.family, socket.getpeername()),
                    parse_socket_addr(socket.family, socket.getsockname()),
                    self.protocol_send,
                    tls.selected_alpn_protocol() if tls else "http/1.1",
                )
                self.protocol.wait_with(self._until_gone)
                await self.protocol.initiate()
                self._idle(True)
                await self._read_data()
                self._left = True
                self._idle(False)
        except OSError:
            pass
        finally:
            self._idle(False)
            await self._close()

    async def _read_data(self) -> None:
        try:
            while data := self._ahead or await self.reader.read(AT_ONCE):
                self._ahead = b""
                await self.protocol.handle(RawData(data))
        except (OSError, ClientGone):
            pass
        await self.protocol.handle(Closed())

    async def _until_gone(self) -> None:
        """Reads on, up to `AHEAD` bytes, while the protocol does not: raises ClientGone at the end of what comes."""
        while len(self._ahead) < AHEAD:
            if not (data := await self.reader.read(AT_ONCE)):
                raise ClientGone
            self._ahead += data

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._idle(event.idle and not self._left)
        else:
            await super().protocol_send(event)

    def close_if_idle(self) -> None:
        """Closes the connection unless a request is in work; then its answer is the last one."""
        if self._timer is not None:
            self._idle(False)
            self._task_group.spawn(self._initiate_server_close)

    def _idle(self, idle: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if idle:
            self._timer = self.loop.call_later(self.config.keep_alive_timeout, self.close_if_idle)


class _Protocol(ProtocolWrapper):
    """Hypercorn's choice of protocol, with our HTTP/1.1 in place of its own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if isinstance(self.protocol, H11Protocol):
            self.protocol = Http1Protocol(*arguments[:-1])

    def wait_with(self, until_gone: Callable[[], Awaitable[None]]) -> None:
        """Has `until_gone` run while requests of HTTP/1.1 wait for the answer of another."""
        if isinstance(self.protocol, Http1Protocol):
            self.protocol.can_read = Turn(self.protocol.can_read, until_gone)


class Turn:
    """When the next request may be read: an event, whose waiting ends with an exception where the client leaves.

    A client that has sent more than it has answers to is left just as others are, and its calls end with it.
    """

    def __init__(self, event: WorkerEvent, until_gone: Callable[[], Awaitable[None]]) -> None:
        self._event = event
        self._until_gone = until_gone

    async def clear(self) -> None:
        await self._event.clear()

    async def set(self) -> None:
        await self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        watching, waiting = (asyncio.ensure_future(one) for one in (self._until_gone(), self._event.wait()))
        try:
            await asyncio.wait((watching, waiting), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            await waiting
        finally:
            watching.cancel()
            waiting.cancel()
            await asyncio.gather(watching, waiting, return_exceptions=True)
