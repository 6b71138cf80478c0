"""Metrics of what waits for its turn."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.lot.pool import PoolReading
from narthex_server.lot.refusals import CLOSED, DRAINING, QUEUE_FULL, TOO_LARGE
from narthex_server.lot.terms import Priority

POOL = ("pool",)
WAITED = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
REASONS = (TOO_LARGE, QUEUE_FULL, DRAINING, CLOSED)
LEVELS = {priority: priority.name.lower() for priority in Priority}


class LotMetrics:
    """The LotObserver of a server."""

    def __init__(self, target: CollectorRegistry) -> None:
        def count(name: str, text: str, *more: str) -> Counter:
            return Counter(f"narthex_lot_{name}", text, (*POOL, *more), registry=target)

        self._waited = Histogram(
            "narthex_lot_wait_seconds", "What admitted work waited.", (*POOL, "priority"), buckets=WAITED,
            registry=target,
        )  # fmt: skip
        self._admitted = count("admitted", "Work that was admitted.")
        self._refused = count("refused", "Work that was turned away.", "reason")
        self._expired = count("expired", "Work whose time was over before its turn came.")
        self._abandoned = count("abandoned", "Work that nobody wanted any more before its turn came.")
        self._begun: set[str] = set()

    def on_admitted(self, pool: str, priority: Priority, waited: float) -> None:
        if pool not in self._begun:
            self._begin(pool)
        self._admitted.labels(pool).inc()
        self._waited.labels(pool, LEVELS[priority]).observe(waited)

    def on_refused(self, pool: str, reason: str) -> None:
        self._refused.labels(pool, reason).inc()

    def on_expired(self, pool: str, priority: Priority, waited: float) -> None:
        self._expired.labels(pool).inc()

    def on_abandoned(self, pool: str, priority: Priority, waited: float) -> None:
        self._abandoned.labels(pool).inc()

    def _begin(self, pool: str) -> None:
        """All counts of a pool are there from its first work on: a rate misses what a counter appears with."""
        self._begun.add(pool)
        for reason in REASONS:
            self._refused.labels(pool, reason)
        self._expired.labels(pool)
        self._abandoned.labels(pool)


class LotReadings(Collector):
    """The levels of all pools, read when Prometheus asks."""

    def __init__(self, target: CollectorRegistry, readings: Callable[[], Sequence[PoolReading]]) -> None:
        self._readings = readings
        target.register(self)

    def collect(self) -> Iterable[Metric]:
        def gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"narthex_lot_{name}", text, labels=(*POOL, *more))

        units = gauge("units", "What admitted work holds of a resource.", "resource")
        capacity = gauge("capacity", "How much there is of a resource.", "resource")
        running = gauge("running", "Admitted work.")
        waiting = gauge("waiting", "Work that waits.", "priority")
        longest = gauge("longest_wait_seconds", "How long the longest has waited that waits now.")
        draining = gauge("draining", "1 where nothing more is admitted.")
        for one in self._readings():
            for resource, amount in one.capacity.items():
                units.add_metric([one.name, resource], one.used[resource])
                capacity.add_metric([one.name, resource], amount)
            running.add_metric([one.name], one.running)
            for priority, level in LEVELS.items():
                waiting.add_metric([one.name, level], one.waiting.get(priority, 0))
            longest.add_metric([one.name], one.longest_wait or 0.0)
            draining.add_metric([one.name], one.draining)
        return units, capacity, running, waiting, longest, draining
