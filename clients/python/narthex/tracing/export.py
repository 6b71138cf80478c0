"""Spans that are sent to a collector by OpenTelemetry's own SDK; the only importer of it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from narthex.tracing.context import TraceContext
from narthex.tracing.span import Kind, Value

_KINDS: Mapping[Kind, SpanKind] = MappingProxyType(
    {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
)


class Exporting:
    """A tracer of its own, not OpenTelemetry's global one: libraries that trace themselves stay silent."""

    def __init__(self, endpoint: str, name: str, default_name: str, ratio: float) -> None:
        """An empty `endpoint` or `name` is asked of OTEL_*; so is the sampler, where one is set there."""
        told = {SERVICE_NAME: name or os.environ.get("OTEL_SERVICE_NAME") or default_name}
        sampler: Sampler | None = ParentBased(TraceIdRatioBased(ratio))
        if ratio == 1.0 and os.environ.get("OTEL_TRACES_SAMPLER"):
            sampler = None
        self._provider = TracerProvider(sampler, Resource.create(told), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint or None)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("narthex")

    @contextmanager
    def span(
        self, name: str, kind: Kind, parent: TraceContext | None, attributes: Mapping[str, Value]
    ) -> Iterator["_Exported"]:
        context = Context() if parent is None else trace.set_span_in_context(_remote(parent), Context())
        made = _Exported(self._tracer.start_span(name, context, _KINDS[kind], attributes), parent)
        try:
            yield made
        except Exception as error:
            reason = getattr(error, "reason", None)
            made.fail(reason if isinstance(reason, str) and reason else type(error).__name__)
            raise
        finally:
            made.end()

    def close(self) -> None:
        self._provider.shutdown()


class _Exported:
    """A span of the SDK."""

    def __init__(self, span: trace.Span, parent: TraceContext | None) -> None:
        self._span = span
        found = span.get_span_context()
        self.context = _context(found) if found.is_valid else parent  # the SDK may be switched off

    def note(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        self._span.end()


def _context(span: SpanContext) -> TraceContext:
    trace_id, span_id = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    return TraceContext(trace_id, span_id, span.trace_flags, span.trace_state.to_header())


def _remote(parent: TraceContext) -> NonRecordingSpan:
    state = TraceState.from_header([parent.state]) if parent.state else TraceState()
    ids = int(parent.trace_id, 16), int(parent.span_id, 16)
    return NonRecordingSpan(SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(parent.flags), trace_state=state))
