"""gRPC metrics exist at zero, and count what calls did."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from narthex_server import errors
from narthex_server.interceptors.around import AroundInterceptor
from narthex_server.interceptors.errors import ErrorInterceptor
from narthex_server.interceptors.metrics import MetricsInterceptor
from prometheus_client import CollectorRegistry

REQUEST = health_pb2.HealthCheckRequest()
SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]


class Counted(health_pb2_grpc.HealthServicer):
    async def Check(self, request, context):
        if request.service:
            raise errors.NotFound("no such service")
        return health_pb2.HealthCheckResponse()

    async def Watch(self, request, context):
        for _ in range(5):
            yield health_pb2.HealthCheckResponse()
        if request.service:
            await asyncio.Event().wait()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def sample(registry: CollectorRegistry, name: str, kind: str, method: str, code: str = "") -> float | None:
    labels = {"grpc_type": kind, "grpc_service": "grpc.health.v1.Health", "grpc_method": method}
    return registry.get_sample_value(name, labels | ({"grpc_code": code} if code else {}))


async def becomes(registry, value, *sampled):
    """A caller may have its answer before the call is counted."""
    async with asyncio.timeout(10):
        while sample(registry, *sampled) != value:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_series_exist_at_zero_before_the_first_call(registry):
    MetricsInterceptor(registry, [SERVICE])
    assert sample(registry, "grpc_server_started_total", "unary", "Check") == 0
    for code in ("OK", "Canceled", "InvalidArgument", "DeadlineExceeded"):
        assert sample(registry, "grpc_server_handled_total", "server_stream", "Watch", code) == 0


async def test_a_unary_call_and_its_error_code_are_counted(serve, registry):
    stub = await serve(Counted(), [MetricsInterceptor(registry, [SERVICE]), ErrorInterceptor()])
    await stub.Check(REQUEST)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Check(health_pb2.HealthCheckRequest(service="x"))
    await becomes(registry, 1, "grpc_server_handled_total", "unary", "Check", "NotFound")
    assert sample(registry, "grpc_server_started_total", "unary", "Check") == 2
    assert sample(registry, "grpc_server_handled_total", "unary", "Check", "OK") == 1
    assert sample(registry, "grpc_server_msg_sent_total", "unary", "Check") == 1
    assert sample(registry, "grpc_server_handling_seconds_count", "unary", "Check") == 2


async def test_a_streams_messages_are_counted_when_it_ends(serve, registry):
    stub = await serve(Counted(), [MetricsInterceptor(registry, [SERVICE]), ErrorInterceptor()])
    assert len([reply async for reply in stub.Watch(REQUEST)]) == 5
    await becomes(registry, 1, "grpc_server_handled_total", "server_stream", "Watch", "OK")
    assert sample(registry, "grpc_server_msg_sent_total", "server_stream", "Watch") == 5


class Last(AroundInterceptor):
    """Says when a call is over for every interceptor inside it."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    @asynccontextmanager
    async def around(self, method, context, traffic):
        try:
            yield
        finally:
            self.over.set()


async def test_a_cancelled_stream_counts_as_canceled(serve, registry):
    last = Last()
    stub = await serve(Counted(), [last, MetricsInterceptor(registry, [SERVICE]), ErrorInterceptor()])
    stream = stub.Watch(health_pb2.HealthCheckRequest(service="wait"))
    await stream.read()
    stream.cancel()
    await asyncio.wait_for(last.over.wait(), 5)
    assert sample(registry, "grpc_server_handled_total", "server_stream", "Watch", "Canceled") == 1


async def test_a_passed_deadline_counts_as_deadline_exceeded(serve, registry):
    last = Last()
    stub = await serve(Counted(), [last, MetricsInterceptor(registry, [SERVICE]), ErrorInterceptor()])
    with pytest.raises(grpc.aio.AioRpcError):
        [_ async for _ in stub.Watch(health_pb2.HealthCheckRequest(service="wait"), timeout=0.2)]
    await asyncio.wait_for(last.over.wait(), 5)
    assert sample(registry, "grpc_server_handled_total", "server_stream", "Watch", "DeadlineExceeded") == 1
