"""Which transport a source is reached by."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any

from mcp.client._transport import TransportStreams

from narthex_server.tools.upstream.source import Http, Process, Transport, WebSocket
from narthex_server.tools.upstream.transports import http, stdio, websocket
from narthex_server.tools.upstream.transports.link import Link

Connect = Callable[[Any, Link], AbstractAsyncContextManager[TransportStreams]]
"""Yields the two streams of messages while there is a connection; takes the source that it is for."""

CONNECTS: Mapping[type[Transport], Connect] = MappingProxyType(
    {Process: stdio.connect, Http: http.connect, WebSocket: websocket.connect}
)


def connect(transport: Transport, link: Link) -> AbstractAsyncContextManager[TransportStreams]:
    """The connection to an upstream that speaks MCP."""
    return CONNECTS[type(transport)](transport, link)
