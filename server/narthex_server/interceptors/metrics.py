"""gRPC metrics, named and labelled as go-grpc-prometheus does."""

import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
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

    def around(
        self, method: str, context: ServicerContext[Any, Any], traffic: Traffic
    ) -> AbstractAsyncContextManager[None]:
        bound = self._methods.get(method)
        return nullcontext() if bound is None else _Counting(bound, context, traffic)


class _Counting(AbstractAsyncContextManager[None]):
    def __init__(self, bound: MethodMetrics, context: ServicerContext[Any, Any], traffic: Traffic) -> None:
        self._bound = bound
        self._context = context
        self._traffic = traffic
        self._started = time.perf_counter()

    async def __aenter__(self) -> None:
        self._bound.started.inc()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bound.received.inc()
        self._bound.sent.inc(self._traffic.sent)
        self._bound.seconds.observe(time.perf_counter() - self._started)
        self._bound.handled[self._code(error)].inc()

    def _code(self, error: BaseException | None) -> StatusCode:
        if error is None:
            return StatusCode.OK
        code = (self._context.code() or StatusCode.UNKNOWN) if isinstance(error, Exception) else StatusCode.CANCELLED
        late = code is StatusCode.CANCELLED and self._context.time_remaining() == 0
        return StatusCode.DEADLINE_EXCEEDED if late else code


def _kind(method: MethodDescriptor) -> str:
    names = {(False, False): "unary", (True, False): "client_stream", (False, True): "server_stream"}
    return names.get((method.client_streaming, method.server_streaming), "bidi_stream")


def _spelled(code: StatusCode) -> str:
    """Go's spelling: OK, InvalidArgument, …; and Canceled, with one l."""
    if code is StatusCode.OK:
        return "OK"
    return "Canceled" if code is StatusCode.CANCELLED else code.name.title().replace("_", "")
