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
from hypercorn.events import Event, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr

from narthex_bridge.transport.http1 import Http1Protocol

LAST_S = 1.0
"""What connections that were cut off have to close, also those whose client reads nothing."""


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
                await self.protocol.initiate()
                self._idle(True)
                await self._read_data()
                self._idle(False)
        except OSError:
            pass
        finally:
            self._idle(False)
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._idle(event.idle)
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
