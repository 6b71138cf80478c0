"""What the bridge counts; every child is bound once."""

import asyncio
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from narthex_bridge.http.messages import Tally
from narthex_bridge.http.refusal import REASONS, Reason
from narthex_bridge.protocol.methods import METHODS

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_ADDED_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LAG_PERIOD = 0.25
_HTTP_METHODS = frozenset({"GET", "POST", "DELETE", "OPTIONS", "HEAD"})


class RouteMetrics:
    """The metrics of one route pattern."""

    def __init__(self, route: str, owner: "Metrics") -> None:
        self._route = route
        self._requests = owner.requests
        self._by_outcome: dict[tuple[str, int], Counter] = {}
        self.duration = owner.duration.labels(route)
        self.added = owner.added.labels(route)
        self.streams = owner.streams.labels(route)
        self.sent = owner.sent.labels(route)
        self.events = owner.events.labels(route)

    def count(self, method: str, status: int) -> None:
        key = (method if method in _HTTP_METHODS else "OTHER", status)
        child = self._by_outcome.get(key)
        if child is None:
            child = self._by_outcome[key] = self._requests.labels(self._route, key[0], str(status))
        child.inc()

    def answered(self, tally: Tally, sent: int, seconds: float | None) -> None:
        """Counts a finished answer of `sent` bytes; `seconds` None for a waiting stream."""
        self.sent.inc(sent)
        self.events.inc(tally.events)
        if seconds is None:
            return
        self.duration.observe(seconds)
        if tally.calls == 1:  # the times of several calls at once overlap
            self.added.observe(max(seconds - tally.server_s, 0.0))


class Metrics:
    """All metrics of a bridge process, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a birth date beside every counter doubles the page
        self._registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        name = "narthex_bridge_"
        self.requests = Counter(
            f"{name}requests", "HTTP requests answered.", ("route", "method", "status"), registry=registry
        )
        self.duration = Histogram(
            f"{name}request_duration_seconds",
            "From an HTTP request to the end of its answer; waiting streams are not in it.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.added = Histogram(
            f"{name}added_seconds",
            "Time a tool call spent in the bridge itself: from its HTTP request to the gRPC call, and from the gRPC"
            " result to its response.",
            ("route",),
            buckets=_ADDED_SECONDS,
            registry=registry,
        )
        self.streams = Gauge(f"{name}streams", "Event streams open.", ("route",), registry=registry)
        self.sent = Counter(f"{name}sent_bytes", "Bytes of bodies sent.", ("route",), registry=registry)
        self.events = Counter(f"{name}events", "JSON-RPC messages sent.", ("route",), registry=registry)
        self.sessions = Gauge(f"{name}sessions", "MCP sessions held.", registry=registry)
        self.stored_events = Counter(
            f"{name}stored_events", "Events kept for clients that come back.", registry=registry
        )
        self.resumed_streams = Counter(
            f"{name}resumed_streams", "Streams that a client came back to.", registry=registry
        )
        self.lost_events = Counter(
            f"{name}lost_events", "Events that a client missed and that were not kept any more.", registry=registry
        )
        self.lost_calls = Counter(
            f"{name}lost_calls", "Requests answered with an error because their bridge had ended.", registry=registry
        )
        self._answers = Counter(
            f"{name}rpc",
            "JSON-RPC requests answered, by method and error code (0: success).",
            ("method", "code"),
            registry=registry,
        )
        refusals = Counter(
            f"{name}refusals", "HTTP requests that may not pass, by reason.", ("reason",), registry=registry
        )
        self._lag = Histogram(
            f"{name}event_loop_lag_seconds",
            "How much later than asked the event loop woke a task.",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self._refusals = {reason: refusals.labels(reason) for reason in REASONS}
        self._answer: dict[tuple[str, int], Counter] = {}
        self._routes: dict[str, RouteMetrics] = {}

    def route(self, pattern: str) -> RouteMetrics:
        """The metrics of a route pattern; the caller keeps them."""
        if pattern not in self._routes:
            self._routes[pattern] = RouteMetrics(pattern, self)
        return self._routes[pattern]

    def refused(self, reason: Reason) -> None:
        """Counts a request that was turned away."""
        self._refusals[reason].inc()

    def answered(self, method: str, code: int) -> None:
        """Counts a JSON-RPC response; methods that do not exist share one label."""
        key = (method if method in METHODS else "other", code)
        child = self._answer.get(key)
        if child is None:
            child = self._answer[key] = self._answers.labels(key[0], str(key[1]))
        child.inc()

    async def watch_loop(self) -> None:
        """Counts how punctual the event loop is, until it is cancelled."""
        while True:
            due = perf_counter() + _LAG_PERIOD
            await asyncio.sleep(_LAG_PERIOD)
            self._lag.observe(max(perf_counter() - due, 0.0))

    def render(self) -> bytes:
        """The exposition text; takes milliseconds, so not on the event loop."""
        return generate_latest(self._registry)
