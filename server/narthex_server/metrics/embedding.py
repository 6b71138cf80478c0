"""Metrics of embedders."""

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.embedding.loop import BatchReport

MODEL = ("model_name",)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
REQUEST = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
EMBEDDED = ("ok", "cancelled", "error")


class EmbeddingMetrics(Collector):
    """The embedders of a server; how many requests they have is read when Prometheus asks."""

    def __init__(self, target: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"narthex_embedding_{name}", text, (*MODEL, *labels), registry=target)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"narthex_embedding_{name}", text, MODEL, buckets=buckets, registry=target)

        self.requests = counter("requests", "Ended requests.", "outcome")
        self.inputs = counter("inputs", "Inputs encoded.")
        self.tokens = counter("tokens", "Their tokens.")
        self.padding = counter("padding_tokens", "What was computed beside them to make batches rectangular.")
        self.request = histogram("request_seconds", "From a request's submission to its vectors.", REQUEST)
        self.batch = histogram("batch_seconds", "One batch.", BETWEEN_TOKENS)
        self.batch_inputs = histogram("batch_inputs", "Inputs of a batch.", TOKENS)
        self._running: dict[str, Callable[[], int]] = {}
        target.register(self)

    def observer(self, model: str) -> "EmbedderObserver":
        """What an embedder reports to."""
        return EmbedderObserver(self, model)

    def watch(self, model: str, running: Callable[[], int]) -> None:
        """Takes in an embedder's level."""
        self._running[model] = running

    def unwatch(self, model: str) -> None:
        """The embedder is gone, and its level with it; what was observed stays."""
        self._running.pop(model, None)

    def collect(self) -> Iterable[Metric]:
        text = "Requests whose vectors are being made, or wait for it."
        level = GaugeMetricFamily("narthex_embedding_requests_running", text, labels=MODEL)
        for model, running in tuple(self._running.items()):  # as of engines: a copy for another thread
            level.add_metric([model], running())
        yield level


class EmbedderObserver:
    """One embedder's observer; its children are bound once."""

    def __init__(self, metrics: EmbeddingMetrics, model: str) -> None:
        self._requests = {outcome: metrics.requests.labels(model, outcome) for outcome in EMBEDDED}
        self._inputs = metrics.inputs.labels(model)
        self._tokens = metrics.tokens.labels(model)
        self._padding = metrics.padding.labels(model)
        self._request = metrics.request.labels(model)
        self._batch = metrics.batch.labels(model)
        self._batch_inputs = metrics.batch_inputs.labels(model)

    def on_batch(self, report: BatchReport) -> None:
        self._inputs.inc(report.texts)
        self._tokens.inc(report.tokens)
        self._padding.inc(report.padding)
        self._batch.observe(report.seconds)
        self._batch_inputs.observe(report.texts)

    def on_finished(self, outcome: str, seconds: float) -> None:
        self._requests[outcome].inc()
        self._request.observe(seconds)
