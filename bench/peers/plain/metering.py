"""Locks that count who waits for them, and for how long."""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

BOUNDS = tuple(10 ** (exponent / 4) for exponent in range(-24, 5))


class Mutex:
    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self.acquisitions = self.contended = 0
        self.waited = 0.0
        self.counts = [0] * (len(BOUNDS) + 1)

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            begun = time.perf_counter()
            self._lock.acquire()
            took = time.perf_counter() - begun
            self.contended += 1
            self.waited += took
            self.counts[bisect_left(BOUNDS, took)] += 1
        self.acquisitions += 1

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Locks:
    def __init__(self, mode: str) -> None:
        self.made: list[Mutex] = []

    def mutex(self, name: str) -> Mutex:
        self.made.append(Mutex(name))
        return self.made[-1]


class _Collector:
    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        wait = HistogramMetricFamily("narthex_lock_wait_seconds", "w", labels=["lock"])
        acquired = CounterMetricFamily("narthex_lock_acquisitions", "a", labels=["lock"])
        contended = CounterMetricFamily("narthex_lock_contended", "c", labels=["lock"])
        for lock in self._locks.made:
            total, buckets = lock.acquisitions - lock.contended, []
            for bound, count in zip([*map(repr, BOUNDS), "+Inf"], lock.counts, strict=True):
                total += count
                buckets.append((bound, total))
            wait.add_metric([lock.name], buckets, lock.waited)
            acquired.add_metric([lock.name], lock.acquisitions)
            contended.add_metric([lock.name], lock.contended)
        yield from (wait, acquired, contended)


def watch(registry: CollectorRegistry, locks: Locks) -> None:
    registry.register(_Collector(locks))
