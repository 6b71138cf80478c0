"""A span for each call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc.aio import ServicerContext
from narthex.tracing.context import TRACE
from narthex.tracing.span import Tracer

from narthex_server.errors import NarthexError
from narthex_server.interceptors.around import AroundInterceptor, Traffic
from narthex_server.interceptors.errors import code
from narthex_server.principal import REQUEST_ID

OURS = "/narthex."
_UNTRACED = ("/narthex.v1.ToolService/RelayCalls", "/narthex.v1.ToolService/Watch")
"""Streams that last as long as their bridge, and are no part of what it was asked."""


class TraceInterceptor(AroundInterceptor):
    """Stands a span around each call of our services, under the one that its caller named, and sets TRACE to it."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @asynccontextmanager
    async def around(self, method: str, context: ServicerContext[Any, Any], traffic: Traffic) -> AsyncIterator[None]:
        if not method.startswith(OURS) or method.startswith(_UNTRACED):
            yield
            return
        name = method.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name, "narthex.request.id": REQUEST_ID.get()}
        with self._tracer.span(name, "server", TRACE.get(), attributes) as span:
            TRACE.set(span.context)
            status = grpc.StatusCode.CANCELLED
            try:
                yield
                status = grpc.StatusCode.OK
            except Exception as error:
                status = code(error) if isinstance(error, NarthexError) else grpc.StatusCode.INTERNAL
                raise
            finally:
                span.note("rpc.response.status_code", status.name)
