"""Metrics of the locks."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from narthex_server.sync.reading import BOUNDS, Distribution, LockReading

LOCK = ("lock",)
LIMITS = (*map(floatToGoString, BOUNDS), "+Inf")


class LockMetrics(Collector):
    """Where the locks of a server stand, read when Prometheus asks, so that counting costs those who lock nothing."""

    def __init__(self, target: CollectorRegistry, readings: Callable[[], Sequence[LockReading]]) -> None:
        self._readings = readings
        target.register(self)

    def collect(self) -> Iterable[Metric]:
        taken = CounterMetricFamily("narthex_lock_acquisitions", "How often a lock was taken.", labels=LOCK)
        contended = CounterMetricFamily("narthex_lock_contended", "How often somebody waited for a lock.", labels=LOCK)
        waits = HistogramMetricFamily(
            "narthex_lock_wait_seconds", "How long those waited who had to wait for a lock.", labels=LOCK
        )
        holds = HistogramMetricFamily(
            "narthex_lock_hold_seconds", "How long a lock was held, for a sample of its holds.", labels=LOCK
        )
        for reading in self._readings():
            taken.add_metric([reading.name], reading.acquisitions)
            contended.add_metric([reading.name], reading.contended)
            waits.add_metric([reading.name], _buckets(reading.waits), reading.waits.total)
            holds.add_metric([reading.name], _buckets(reading.holds), reading.holds.total)
        yield from (taken, contended, waits, holds)


def _buckets(times: Distribution) -> list[tuple[str, float]]:
    return list(zip(LIMITS, map(float, accumulate(times.counts)), strict=True))
