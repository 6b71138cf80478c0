"""A server behind a URL: Streamable HTTP, or the older HTTP+SSE."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import httpx2
from mcp.client._transport import TransportStreams
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from narthex_server.tools.upstream.source import Http

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 660.0
"""Seconds without a byte on a stream, longer than a call waits for its caller; calls have their own deadline."""


@asynccontextmanager
async def connect(source: Http, refused: Callable[[str], None]) -> AsyncGenerator[TransportStreams]:
    """Yields the two streams of messages; connections are opened as messages are sent.

    `refused` is told the HTTP status of a request that is not allowed: the session's own error does not name it.
    """
    if source.sse:
        async with sse_client(
            source.url, headers=dict(source.headers), timeout=CONNECT_TIMEOUT, sse_read_timeout=READ_TIMEOUT
        ) as streams:
            yield streams
        return

    async def note(response: httpx2.Response) -> None:
        if response.status_code in (401, 403, 429) or response.status_code >= 500:
            refused(f"HTTP {response.status_code} {response.reason_phrase}")

    timeout = httpx2.Timeout(CONNECT_TIMEOUT, read=READ_TIMEOUT)
    limits = httpx2.Limits(max_connections=256, max_keepalive_connections=32)
    async with (
        httpx2.AsyncClient(
            headers=dict(source.headers), timeout=timeout, limits=limits, event_hooks={"response": [note]}
        ) as client,
        streamable_http_client(source.url, http_client=client) as streams,
    ):
        yield streams
