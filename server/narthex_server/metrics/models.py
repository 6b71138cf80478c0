"""Metrics of the library of models."""

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Histogram,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.pipelines.library import Listed, State

MODEL = ("model_name",)
LOAD = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)


class ModelMetrics(Collector):
    """Where the models of a server are in their lives, read when Prometheus asks, and how long loading took."""

    def __init__(self, target: CollectorRegistry) -> None:
        self._load = Histogram(
            "narthex_model_load_seconds", "From the begin of a load to the model's being ready.", MODEL, buckets=LOAD,
            registry=target,
        )  # fmt: skip
        self._listed: Callable[[], Iterable[Listed]] = tuple
        target.register(self)

    def watch(self, listed: Callable[[], Iterable[Listed]]) -> None:
        """Takes in the models."""
        self._listed = listed

    def on_loaded(self, model: str, seconds: float) -> None:
        self._load.labels(model).observe(seconds)

    def collect(self) -> Iterable[Metric]:
        found = GaugeMetricFamily(
            "narthex_model_state", "1 for the state that a model is in.", labels=(*MODEL, "state")
        )
        for listed in self._listed():
            for state in State:
                found.add_metric([listed.name, state.value], float(listed.state is state))
        yield found
