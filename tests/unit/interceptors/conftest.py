"""A real aio server around a tiny servicer, mostly health's two methods, a unary and a server-streaming one."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc

Serve = Callable[..., Awaitable[Any]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server with a servicer and interceptors; gives a stub of it."""
    async with AsyncExitStack() as stack:

        async def start(
            servicer: Any,
            interceptors: Sequence[grpc.aio.ServerInterceptor],
            add: Callable[[Any, Any], None] = health_pb2_grpc.add_HealthServicer_to_server,
            stub: Callable[[grpc.aio.Channel], Any] = health_pb2_grpc.HealthStub,
        ) -> Any:
            server = grpc.aio.server(interceptors=list(interceptors))
            add(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            return stub(channel)

        yield start
