"""gRPC metrics, named and labelled as go-grpc-prometheus does."""

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc import StatusCode
from grpc.aio import ServicerContext
from prometheus_client import CollectorRegistry, Counter, Histogram

from narthex_server.interceptors.around import AroundInterceptor, Traffic

LABELS = ("grpc_type", "grpc_service", "grpc_method")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class GrpcMetrics:
    """The five metric families of go-grpc-prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = LABELS) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self.started = counter("grpc_server_started_total", "RPCs started on the server.")
        self.handled = counter(
            "grpc_server_handled_total", "RPCs completed on the server, by code.", (*LABELS, "grpc_code")
        )
        self.received = counter("grpc_server_msg_received_total", "Messages received from clients.")
        self.sent = counter("grpc_server_msg_sent_total", "Messages sent by the server.")
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from an RPC's start to its end.",
            LABELS,
            buckets=BUCKETS,
            registry=registry,
        )


class MethodMetrics:
    """The children of one method, bound once: `labels()` on every call costs three times the counting itself."""

    def __init__(self, metrics: GrpcMetrics, method: MethodDescriptor) -> None:
        labels = (_kind(method), method.containing_service.full_name, method.name)
        self.started = metrics.started.labels(*labels)
        self.received = metrics.received.labels(*labels)
        self.sent = metrics.sent.labels(*labels)
        self.seconds = metrics.seconds.labels(*labels)
        self.handled = {code: metrics.handled.labels(*labels, _spelled(code)) for code in StatusCode}


class MetricsInterceptor(AroundInterceptor):
    """Counts and times the calls of the given services, whose series all exist from the start."""

    def __init__(self, registry: CollectorRegistry, services: Iterable[ServiceDescriptor]) -> None:
        metrics = GrpcMetrics(registry)
        self._methods = {
            f"/{service.full_name}/{method.name}": MethodMetrics(metrics, method)
            for service in services
            for method in service.methods
        }

    @asynccontextmanager
    async def around(self, method: str, context: ServicerContext[Any, Any], traffic: Traffic) -> AsyncIterator[None]:
        bound = self._methods.get(method)
        if bound is None:
            yield
            return
        started = time.perf_counter()
        bound.started.inc()
        code = StatusCode.CANCELLED
        try:
            yield
            code = StatusCode.OK
        except Exception:
            code = context.code() or StatusCode.UNKNOWN
            raise
        finally:
            if code is StatusCode.CANCELLED and context.time_remaining() == 0:
                code = StatusCode.DEADLINE_EXCEEDED
            bound.received.inc()
            bound.sent.inc(traffic.sent)
            bound.seconds.observe(time.perf_counter() - started)
            bound.handled[code].inc()


def _kind(method: MethodDescriptor) -> str:
    names = {(False, False): "unary", (True, False): "client_stream", (False, True): "server_stream"}
    return names.get((method.client_streaming, method.server_streaming), "bidi_stream")


def _spelled(code: StatusCode) -> str:
    """Go's spelling: OK, InvalidArgument, …; and Canceled, with one l."""
    if code is StatusCode.OK:
        return "OK"
    return "Canceled" if code is StatusCode.CANCELLED else code.name.title().replace("_", "")
