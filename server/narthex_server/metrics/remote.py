"""Metrics of remote engines."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
)

from narthex_server.engine.observer import RequestReport
from narthex_server.metrics.embedding import EmbeddingMetrics
from narthex_server.metrics.engine import EngineMetrics
from narthex_server.pipelines.models import Kind, RemoteModel

MODEL = ("model_name",)
EXCHANGED = ("ok", "invalid", "refused", "busy", "unavailable", "cancelled", "error")


class RemoteMetrics:
    """Models that other servers run: their answers and vectors count as those of engines and embedders here."""

    def __init__(self, target: CollectorRegistry, engines: EngineMetrics, embedders: EmbeddingMetrics) -> None:
        self.requests = Counter(
            "narthex_remote_requests", "HTTP requests to remote engines that ended.", (*MODEL, "outcome"),
            registry=target,
        )  # fmt: skip
        self._engines = engines
        self._embedders = embedders

    def observer(self, model: str) -> "RemoteModelObserver":
        """What a remote model's handle reports to."""
        return RemoteModelObserver(self.requests, model, self._engines, self._embedders)

    def watch(self, model: RemoteModel) -> None:
        """Takes in how many requests it has, and what it took so far."""
        if model.kind is Kind.TEXT:
            self._engines.watch(model.name, model.handle.snapshot)
        else:
            self._embedders.watch(model.name, model.handle.requests)

    def unwatch(self, model: RemoteModel) -> None:
        """It is not served any more; what was observed stays."""
        self._engines.unwatch(model.name)
        self._embedders.unwatch(model.name)


class RemoteModelObserver:
    """One remote model's observer."""

    def __init__(self, requests: Counter, model: str, engines: EngineMetrics, embedders: EmbeddingMetrics) -> None:
        self._requests = {outcome: requests.labels(model, outcome) for outcome in EXCHANGED}
        self._model = model
        self._engines = engines
        self._embedders = embedders

    def on_exchange(self, outcome: str) -> None:
        self._requests[outcome].inc()

    def on_generated(self, report: RequestReport) -> None:
        self._engines.observer(self._model).on_finished(report)

    def on_embedded(self, texts: int, tokens: int, outcome: str, seconds: float) -> None:
        self._embedders.inputs.labels(self._model).inc(texts)
        self._embedders.tokens.labels(self._model).inc(tokens)
        self._embedders.observer(self._model).on_finished(outcome, seconds)
