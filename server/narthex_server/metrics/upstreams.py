"""Metrics of the lives of upstreams."""

from collections.abc import Callable, Iterable, Mapping
from time import time

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.tools.server import BreakerState, Vitals
from narthex_server.tools.upstream.usage import Usage, usage_of

SERVER = ("server",)
OUTCOMES = ("applied", "unchanged", "invalid")


class VitalsMetrics(Collector):
    """How the upstreams have fared, read when Prometheus asks; one that is removed takes its series with it."""

    def __init__(self, target: CollectorRegistry, vitals: Callable[[], Mapping[str, Vitals]]) -> None:
        self._vitals = vitals
        target.register(self)

    def collect(self) -> Iterable[Metric]:
        def counter(name: str, text: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"narthex_upstream_{name}", text, labels=SERVER)

        breaker = GaugeMetricFamily(
            "narthex_upstream_breaker_state", "1 for the state that a breaker is in.", labels=(*SERVER, "state")
        )
        trips = counter("breaker_trips", "How often a breaker opened.")
        reconnects = counter("reconnects", "Connections after the first.")
        restarts = counter("restarts", "Starts of a process after the first.")
        failed = counter("health_check_failures", "Health checks without an answer.")
        success = GaugeMetricFamily(
            "narthex_upstream_last_success_age_seconds", "Seconds since a call last succeeded.", labels=SERVER
        )
        for name, one in self._vitals().items():
            for state in BreakerState if one.breaker is not None else ():
                breaker.add_metric([name, state.value], float(one.breaker is state))
            trips.add_metric([name], one.trips)
            reconnects.add_metric([name], one.reconnects)
            restarts.add_metric([name], one.restarts)
            failed.add_metric([name], one.failed_checks)
            if one.last_success:
                success.add_metric([name], time() - one.last_success)
        yield from (breaker, trips, reconnects, restarts, failed, success)


class ProcessMetrics(Collector):
    """What upstreams' own processes use, looked at when Prometheus asks."""

    def __init__(self, target: CollectorRegistry, vitals: Callable[[], Mapping[str, Vitals]]) -> None:
        self._vitals = vitals
        target.register(self)

    def describe(self) -> Iterable[Metric]:
        return self._families({})

    def collect(self) -> Iterable[Metric]:
        running = {name: one.processes for name, one in self._vitals().items() if one.processes}
        used = {name: usage_of(processes) for name, processes in running.items()}
        return self._families({name: usage for name, usage in used.items() if usage is not None})

    def _families(self, used: Mapping[str, Usage]) -> Iterable[Metric]:
        def gauge(name: str, text: str, value: Callable[[Usage], float]) -> GaugeMetricFamily:
            family = GaugeMetricFamily(f"narthex_upstream_process_{name}", text, labels=SERVER)
            for server, usage in used.items():
                family.add_metric([server], value(usage))
            return family

        yield gauge("memory_bytes", "Memory of an upstream's processes.", lambda usage: usage.memory)
        yield gauge("cpu_seconds", "CPU time of those that run.", lambda usage: usage.cpu)
        yield gauge("open_fds", "Descriptors that they have open.", lambda usage: usage.open_files)
        yield gauge("children", "How many processes an upstream has.", lambda usage: usage.processes)


class ReloadMetrics:
    """Counts the readings of the file of upstreams; the start is one that was applied."""

    def __init__(self, target: CollectorRegistry) -> None:
        counter = Counter(
            "narthex_upstream_config_reload", "Readings of the file of upstreams.", ("outcome",), registry=target
        )
        self._outcomes = {outcome: counter.labels(outcome) for outcome in OUTCOMES}
        self._success = Gauge(
            "narthex_upstream_config_last_success_timestamp_seconds", "When the file was last read and right.",
            registry=target,
        )  # fmt: skip
        self._success.set(time())

    def on_reload(self, outcome: str, moment: float) -> None:
        """Counts one reading after the start."""
        self._outcomes[outcome].inc()
        if outcome != "invalid":
            self._success.set(moment)
