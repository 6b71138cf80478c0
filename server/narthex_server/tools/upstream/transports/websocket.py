"""A server behind a WebSocket: one JSON-RPC message in each text frame."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from narthex_server.errors import Unavailable
from narthex_server.tools.upstream.source import WebSocket
from narthex_server.tools.upstream.transports.link import Link
from narthex_server.tools.upstream.urls import note_url

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]

SUBPROTOCOL = Subprotocol("mcp")
MAX_MESSAGE = 64 * 1024 * 1024
CONNECT_TIMEOUT = 10.0
CLOSE_TIMEOUT = 1.0
PING_INTERVAL = 20.0
"""Seconds between two pings, and that one may go without an answer: a server behind a network can go without a word."""


@asynccontextmanager
async def connect(source: WebSocket, link: Link) -> AsyncGenerator[Streams]:
    """Yields the two streams of messages; the connection is closed on exit.

    `link.ended` is told why, before the streams close, when the server goes by itself.

    Raises:
        OSError: there is no connection.
        Unavailable: the server does not want one, or a secret cannot be read.
    """
    note_url(source.url, link.secrets)
    secure = source.url.lower().startswith("wss:")
    try:
        websocket = await open_websocket(
            source.url,
            subprotocols=[SUBPROTOCOL],
            additional_headers=link.secrets.reveal_all(source.headers),
            ssl=source.tls.context() if secure else None,
            server_hostname=source.tls.server_name if secure else None,
            open_timeout=CONNECT_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_INTERVAL,
            max_size=MAX_MESSAGE,
            proxy=None,
            user_agent_header="narthex",
        )
    except InvalidStatus as error:
        raise Unavailable(f"refused the connection: HTTP {error.response.status_code}") from None
    except InvalidHandshake as error:
        raise Unavailable(f"did not take the WebSocket: {type(error).__name__}") from None
    session = _Session(websocket, link)
    tasks = [asyncio.create_task(run()) for run in (session.read, session.write)]
    try:
        yield session.received, session.to_send
    finally:
        session.leaving = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await websocket.close()
        session.close()


class _Session:
    def __init__(self, websocket: ClientConnection, link: Link) -> None:
        self._websocket = websocket
        self._link = link
        self._incoming, self.received = anyio.create_memory_object_stream[Incoming](64)
        self.to_send, self._outgoing = anyio.create_memory_object_stream[SessionMessage](64)
        self.leaving = False

    async def read(self) -> None:
        """Passes messages on; a frame that holds none is skipped."""
        reason = "closed the connection"
        try:
            async for frame in self._websocket:
                try:
                    message = jsonrpc_message_adapter.validate_json(frame, by_name=False)
                except ValueError:
                    continue
                await self._incoming.send(SessionMessage(message))
        except ConnectionClosed as error:
            reason = f"the connection broke: {error.rcvd or error.sent or 'without a word'}"
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
        if not self.leaving:
            self._link.ended(reason)
        self._incoming.close()

    async def write(self) -> None:
        # `read` sees that the connection is closed, and knows why
        with suppress(ConnectionClosed, anyio.ClosedResourceError):
            async for message in self._outgoing:
                await self._websocket.send(message.message.model_dump_json(by_alias=True, exclude_unset=True))

    def close(self) -> None:
        for stream in (self._incoming, self.received, self.to_send, self._outgoing):
            stream.close()
