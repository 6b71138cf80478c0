"""Metrics of kept results."""

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Kept(Protocol):
    """What is kept now."""

    @property
    def bytes(self) -> int: ...

    def __len__(self) -> int: ...


class CacheMetrics(Collector):
    """Counts lookups and what had to go; how much there is is read when Prometheus asks."""

    def __init__(self, target: CollectorRegistry) -> None:
        self._lookups = Counter(
            "narthex_tool_cache", "Calls whose result may be kept.", ("server", "outcome"), registry=target
        )
        self._evictions = Counter(
            "narthex_tool_cache_evictions", "Results that are not kept any more.", ("reason",), registry=target
        )
        self._bound: dict[tuple[str, str], Counter] = {}
        self._kept: Kept | None = None
        target.register(self)

    def watch(self, kept: Kept) -> None:
        self._kept = kept

    def on_lookup(self, server: str, outcome: str) -> None:
        if (bound := self._bound.get((server, outcome))) is None:
            bound = self._bound[server, outcome] = self._lookups.labels(server, outcome)
        bound.inc()

    def on_eviction(self, reason: str) -> None:
        self._evictions.labels(reason).inc()

    def collect(self) -> Iterable[Metric]:
        entries, size = (len(self._kept), self._kept.bytes) if self._kept is not None else (0, 0)
        yield GaugeMetricFamily("narthex_tool_cache_entries", "Results that are kept.", value=entries)
        yield GaugeMetricFamily("narthex_tool_cache_bytes", "Bytes of them.", value=size)
