"""Requests that each declare what their own caller can answer, on a connection that all callers share."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import mcp_types as types
from mcp.client._transport import TransportStreams, WriteStream
from mcp.shared.message import SessionMessage

DECLARED: ContextVar[Mapping[str, Any] | None] = ContextVar("declared", default=None)
"""The client capabilities of the request that the current task sends; None for the connection's own.

What comes on the stream that answers a request over HTTP is handled in that request's context, with its value.
"""


class _Declaring:
    """A stream to a server; the session itself knows only one set of capabilities for all that it sends."""

    def __init__(self, inner: WriteStream[SessionMessage]) -> None:
        self._inner = inner

    async def send(self, item: SessionMessage, /) -> None:
        declared = DECLARED.get()
        if declared is not None and isinstance(item.message, types.JSONRPCRequest):
            match item.message.params:
                case {"_meta": {types.CLIENT_CAPABILITIES_META_KEY: _} as meta}:
                    meta[types.CLIENT_CAPABILITIES_META_KEY] = dict(declared)
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)


@asynccontextmanager
async def declaring(transport: AbstractAsyncContextManager[TransportStreams]) -> AsyncGenerator[TransportStreams]:
    """The transport, with each request of 2026-07-28 declaring DECLARED."""
    async with transport as (reading, writing):
        yield reading, _Declaring(writing)
