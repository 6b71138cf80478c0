"""A server behind a URL: Streamable HTTP, or the older HTTP+SSE."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
from mcp.client._transport import TransportStreams
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from narthex_server.tools.upstream.source import Http

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 300.0
"""Seconds without a byte on a stream; calls have their own, shorter deadline."""


@asynccontextmanager
async def connect(source: Http) -> AsyncGenerator[TransportStreams]:
    """Yields the two streams of messages; connections are opened as messages are sent."""
    if source.sse:
        async with sse_client(source.url, headers=dict(source.headers), timeout=CONNECT_TIMEOUT) as streams:
            yield streams
        return
    timeout = httpx2.Timeout(CONNECT_TIMEOUT, read=READ_TIMEOUT)
    limits = httpx2.Limits(max_connections=256, max_keepalive_connections=32)
    async with (
        httpx2.AsyncClient(headers=dict(source.headers), timeout=timeout, limits=limits) as client,
        streamable_http_client(source.url, http_client=client) as streams,
    ):
        yield streams
