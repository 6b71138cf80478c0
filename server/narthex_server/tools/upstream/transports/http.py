"""A server behind a URL: Streamable HTTP, or the older HTTP+SSE."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import httpx2
from mcp.client._transport import TransportStreams
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from narthex_server.tools.upstream.grant import GRANT
from narthex_server.tools.upstream.source import Http
from narthex_server.tools.upstream.transports.link import Link
from narthex_server.tools.upstream.web.client import CONNECT_TIMEOUT, opened

READ_TIMEOUT = 660.0
"""Seconds without a byte on a stream, longer than a call waits for its caller; calls have their own deadline."""


@asynccontextmanager
async def connect(source: Http, link: Link) -> AsyncGenerator[TransportStreams]:
    """Yields the two streams of messages; connections are opened as messages are sent.

    `link.refused` is told the HTTP status of a request that is not allowed: the session's own error does not name it.

    Raises:
        Unavailable, OSError: a secret, a certificate or a token cannot be had.
    """

    async def note(response: httpx2.Response) -> None:
        if GRANT.get() is not None and response.status_code < 500:
            return  # it is about one caller's token, and no reason of a lost connection
        if response.status_code in (401, 403, 429) or response.status_code >= 500:
            link.refused(f"HTTP {response.status_code} {response.reason_phrase[:100]}")
        elif response.is_success:
            link.refused("")  # a token was renewed, or whatever it was is over

    async with opened(source, source.url, link.secrets, READ_TIMEOUT, link.locks) as client:
        client.event_hooks["response"].append(note)
        async with _session(source, client) as streams:
            yield streams


def _session(source: Http, client: httpx2.AsyncClient) -> AbstractAsyncContextManager[TransportStreams]:
    if not source.sse:
        return streamable_http_client(source.url, http_client=client)

    shared: Any = lambda **_: nullcontext(client)  # noqa: E731 (its type says that the client is closed with it)
    return sse_client(source.url, timeout=CONNECT_TIMEOUT, sse_read_timeout=READ_TIMEOUT, httpx_client_factory=shared)
