"""Metrics of what upstreams offer, and of what they answer."""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.tools.names import Renamed


class MisfitMetrics:
    """Counts results that do not fit."""

    def __init__(self, target: CollectorRegistry) -> None:
        self._misfits = Counter(
            "narthex_tool_result_misfits", "Results that do not fit their output schema.", ("tool", "server"),
            registry=target,
        )  # fmt: skip

    def on_misfit(self, tool: str, server: str) -> None:
        self._misfits.labels(tool, server).inc()


class OfferMetrics(Collector):
    """What is odd about what upstreams offer, read when Prometheus asks."""

    def __init__(
        self,
        target: CollectorRegistry,
        renamed: Callable[[], Iterable[Renamed]],
        suspects: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        self._renamed = renamed
        self._suspects = suspects
        target.register(self)

    def collect(self) -> Iterable[Metric]:
        names = GaugeMetricFamily(
            "narthex_upstream_renamed_tools", "Tools under another name than the usual.", labels=("server", "reason")
        )
        for (server, reason), count in Count((one.server, one.reason.value) for one in self._renamed()).items():
            names.add_metric([server, reason], count)
        hidden = GaugeMetricFamily(
            "narthex_upstream_hidden_characters", "Descriptors that hold hidden characters.", labels=("server", "kind")
        )
        for (server, kind), count in self._suspects().items():
            hidden.add_metric([server, kind], count)
        yield names
        yield hidden
