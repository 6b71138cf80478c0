"""Metrics of tool calls and upstreams."""

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.tools.report import CallReport, Outcome
from narthex_server.tools.server import ServerState, ServerStatus

TOOL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

MAX_SERIES = 10_000
"""Of tool, server and outcome; upstreams may list new tools for ever, and memory is not theirs to fill."""

OTHER = "other"


class ToolMetrics:
    """An observer of the catalog."""

    def __init__(self, target: CollectorRegistry) -> None:
        labels = ("tool", "server")
        self._calls = Counter("narthex_tool_calls", "Ended tool calls.", (*labels, "outcome"), registry=target)
        self._seconds = Histogram(
            "narthex_tool_call_seconds", "Time of a tool call.", labels, buckets=TOOL, registry=target
        )
        self._requests = Counter(
            "narthex_offer_requests", "Ended requests for what upstreams offer beside tools.", ("kind", "outcome"),
            registry=target,
        )  # fmt: skip
        self._request_seconds = Histogram(
            "narthex_offer_request_seconds", "Time of such a request.", ("kind",), buckets=TOOL, registry=target
        )
        self._bound: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}

    def on_call(self, report: CallReport) -> None:
        """Counts one call, read, prompt or completion."""
        if report.kind == "tool":
            self._count_call(report.name, report.server, report.seconds, report.outcome)
        else:
            self._requests.labels(report.kind, report.outcome).inc()
            self._request_seconds.labels(report.kind).observe(report.seconds)

    def _count_call(self, tool: str, server: str, seconds: float, outcome: Outcome) -> None:
        # `tool` is a name of the catalog or empty, so the series are as many as the tools
        key = tool, server, outcome
        if (bound := self._bound.get(key)) is None:
            known = len(self._bound) < MAX_SERIES
            shown = (tool, server) if known else (OTHER, server)
            bound = self._calls.labels(*shown, outcome), self._seconds.labels(*shown)
            if known:
                self._bound[key] = bound
        bound[0].inc()
        bound[1].observe(seconds)


class UpstreamMetrics(Collector):
    """How the upstreams are, read when Prometheus asks."""

    def __init__(self, target: CollectorRegistry, servers: Callable[[], Iterable[ServerStatus]]) -> None:
        self._servers = servers
        target.register(self)

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("narthex_upstream_up", "1 while an upstream takes calls.", labels=("server",))
        tools = GaugeMetricFamily("narthex_upstream_tools", "Tools that an upstream listed.", labels=("server",))
        connections = GaugeMetricFamily(
            "narthex_upstream_connections", "Connections to an upstream that are up.", labels=("server",)
        )
        for status in self._servers():
            up.add_metric([status.name], float(status.state is ServerState.READY))
            tools.add_metric([status.name], status.tools)
            connections.add_metric([status.name], status.connections)
        yield up
        yield tools
        yield connections
