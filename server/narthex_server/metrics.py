"""What the server tells Prometheus beyond gRPC: engines, embedders, models, … docs/metrics.md lists every name."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from narthex.settings import Address
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.embedding.loop import BatchReport
from narthex_server.engine.observer import EngineStats, RequestReport, StepReport
from narthex_server.pipelines.library import Listed, State
from narthex_server.pipelines.models import Kind, RemoteModel
from narthex_server.tools.server import ServerState, ServerStatus

MODEL = ("model_name",)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
REQUEST = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
LOAD = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)
TOOL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
EMBEDDED = ("ok", "cancelled", "error")
EXCHANGED = ("ok", "invalid", "refused", "busy", "unavailable", "cancelled", "error")
FINISHED = ("stop", "length", "cancelled", "error")


def registry() -> CollectorRegistry:
    """A registry of this server alone, with the process's own metrics and the build's in it."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of birth dates beside every counter doubles the page
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    build = Gauge("narthex_build_info", "Always 1; the version is the label.", ("version",), registry=made)
    build.labels(version("narthex")).set(1)
    return made


@contextmanager
def served(source: CollectorRegistry, address: Address) -> Iterator[int]:
    """Serves /metrics in a thread of its own; gives the port. Raises OSError where the address is taken."""
    server, thread = start_http_server(address.port, address.host, source)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class EngineMetrics(Collector):
    """The engines of a server: levels and token counts are read from their snapshots when Prometheus asks."""

    def __init__(self, target: CollectorRegistry) -> None:
        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"narthex_{name}", text, MODEL, buckets=buckets, registry=target)

        self.first_token = seconds(
            "time_to_first_token_seconds", "From a request's submission to its first token.", FIRST_TOKEN
        )
        self.between_tokens = seconds("inter_token_latency_seconds", "Between two tokens of a request.", BETWEEN_TOKENS)
        self.request = seconds("e2e_request_latency_seconds", "From a request's submission to its end.", REQUEST)
        self.queue = seconds("request_queue_time_seconds", "What a request waited for a slot.", FIRST_TOKEN)
        self.prompt = seconds("request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self.generation = seconds("request_generation_tokens", "Generated tokens of a request.", TOKENS)
        self.step = seconds("engine_step_seconds", "One step of the engine.", BETWEEN_TOKENS)
        self.finished = Counter(
            "narthex_request_success", "Ended requests.", (*MODEL, "finished_reason"), registry=target
        )
        self._engines: dict[str, Callable[[], EngineStats]] = {}
        target.register(self)

    def observer(self, model: str) -> "ModelObserver":
        """What an engine reports to."""
        return ModelObserver(self, model)

    def watch(self, model: str, snapshot: Callable[[], EngineStats]) -> None:
        """Takes in an engine's levels and counts."""
        self._engines[model] = snapshot

    def unwatch(self, model: str) -> None:
        """The engine is gone, and its levels and counts with it; what was observed stays."""
        self._engines.pop(model, None)

    def collect(self) -> Iterable[Metric]:
        stats = {model: snapshot() for model, snapshot in self._engines.items()}

        def family(kind: type[Metric], name: str, text: str, value: Callable[[EngineStats], float]) -> Metric:
            made = kind(f"narthex_{name}", text, labels=MODEL)  # type: ignore[call-arg]
            for model, found in stats.items():
                made.add_metric([model], value(found))  # type: ignore[attr-defined]
            return made

        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield family(gauge, "num_requests_running", "Requests that hold a slot.", lambda s: s.running)
        yield family(gauge, "num_requests_waiting", "Requests that wait for a slot.", lambda s: s.waiting)
        yield family(gauge, "num_slots", "Slots, busy or not.", lambda s: s.slots)
        yield family(
            gauge,
            "kv_cache_usage_ratio",
            "Cached tokens of running requests over what there is room for.",
            lambda s: s.kv_tokens_used / max(s.kv_tokens_capacity, 1),
        )
        yield family(counter, "prompt_tokens", "Prompt tokens of admitted requests.", lambda s: s.prompt_tokens)
        yield family(counter, "generation_tokens", "Generated tokens.", lambda s: s.generated_tokens)
        yield family(counter, "prefix_cache_queries", "Prompt tokens looked up.", lambda s: s.prompt_tokens)
        yield family(gauge, "adapters_loaded", "Adapters that requests may name.", lambda s: s.adapters)
        yield family(counter, "adapted_tokens", "Generated tokens of adapted requests.", lambda s: s.adapted_tokens)
        yield family(counter, "prefix_cache_hits", "Prompt tokens found computed.", lambda s: s.cached_tokens)
        yield family(counter, "num_preemptions", "Requests sent back to wait for memory.", lambda s: s.preemptions)
        yield family(counter, "spec_decode_num_drafts", "Drafts that were verified.", lambda s: s.drafts)
        yield family(counter, "spec_decode_num_draft_tokens", "Tokens guessed.", lambda s: s.draft_tokens)
        yield family(
            counter, "spec_decode_num_accepted_tokens", "Guesses that were right.", lambda s: s.accepted_tokens
        )


class ModelObserver:
    """One engine's observer; its children are bound once."""

    def __init__(self, metrics: EngineMetrics, model: str) -> None:
        self._first_token = metrics.first_token.labels(model)
        self._between_tokens = metrics.between_tokens.labels(model)
        self._request = metrics.request.labels(model)
        self._queue = metrics.queue.labels(model)
        self._prompt = metrics.prompt.labels(model)
        self._generation = metrics.generation.labels(model)
        self._step = metrics.step.labels(model)
        self._finished = {reason: metrics.finished.labels(model, reason) for reason in FINISHED}

    def on_step(self, report: StepReport) -> None:
        self._step.observe(report.seconds)

    def on_finished(self, report: RequestReport) -> None:
        self._finished[report.reason].inc()
        self._request.observe(report.total)
        self._prompt.observe(report.prompt_tokens)
        self._generation.observe(report.completion_tokens)
        if report.queue is not None:
            self._queue.observe(report.queue)
        if report.first_token is not None:
            self._first_token.observe(report.first_token)
        for gap in report.gaps:
            self._between_tokens.observe(gap)


class EmbeddingMetrics(Collector):
    """The embedders of a server; how many requests they have is read when Prometheus asks."""

    def __init__(self, target: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"narthex_embedding_{name}", text, (*MODEL, *labels), registry=target)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"narthex_embedding_{name}", text, MODEL, buckets=buckets, registry=target)

        self.requests = counter("requests", "Ended requests.", "outcome")
        self.inputs = counter("inputs", "Inputs encoded.")
        self.tokens = counter("tokens", "Their tokens.")
        self.padding = counter("padding_tokens", "What was computed beside them to make batches rectangular.")
        self.request = histogram("request_seconds", "From a request's submission to its vectors.", REQUEST)
        self.batch = histogram("batch_seconds", "One batch.", BETWEEN_TOKENS)
        self.batch_inputs = histogram("batch_inputs", "Inputs of a batch.", TOKENS)
        self._running: dict[str, Callable[[], int]] = {}
        target.register(self)

    def observer(self, model: str) -> "EmbedderObserver":
        """What an embedder reports to."""
        return EmbedderObserver(self, model)

    def watch(self, model: str, running: Callable[[], int]) -> None:
        """Takes in an embedder's level."""
        self._running[model] = running

    def unwatch(self, model: str) -> None:
        """The embedder is gone, and its level with it; what was observed stays."""
        self._running.pop(model, None)

    def collect(self) -> Iterable[Metric]:
        text = "Requests whose vectors are being made, or wait for it."
        level = GaugeMetricFamily("narthex_embedding_requests_running", text, labels=MODEL)
        for model, running in self._running.items():
            level.add_metric([model], running())
        yield level


class EmbedderObserver:
    """One embedder's observer; its children are bound once."""

    def __init__(self, metrics: EmbeddingMetrics, model: str) -> None:
        self._requests = {outcome: metrics.requests.labels(model, outcome) for outcome in EMBEDDED}
        self._inputs = metrics.inputs.labels(model)
        self._tokens = metrics.tokens.labels(model)
        self._padding = metrics.padding.labels(model)
        self._request = metrics.request.labels(model)
        self._batch = metrics.batch.labels(model)
        self._batch_inputs = metrics.batch_inputs.labels(model)

    def on_batch(self, report: BatchReport) -> None:
        self._inputs.inc(report.texts)
        self._tokens.inc(report.tokens)
        self._padding.inc(report.padding)
        self._batch.observe(report.seconds)
        self._batch_inputs.observe(report.texts)

    def on_finished(self, outcome: str, seconds: float) -> None:
        self._requests[outcome].inc()
        self._request.observe(seconds)


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


class ToolMetrics:
    """The catalog's observer."""

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

    def on_request(self, kind: str, seconds: float, outcome: str) -> None:
        """Counts one read, prompt or completion."""
        self._requests.labels(kind, outcome).inc()
        self._request_seconds.labels(kind).observe(seconds)

    def on_call(self, tool: str, server: str, seconds: float, outcome: str) -> None:
        """Counts one call; `tool` is a name of the catalog or empty, so the series are as many as the tools."""
        key = tool, server, outcome
        if (bound := self._bound.get(key)) is None:
            bound = self._calls.labels(*key), self._seconds.labels(tool, server)
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
        for status in self._servers():
            up.add_metric([status.name], float(status.state is ServerState.READY))
            tools.add_metric([status.name], status.tools)
        yield up
        yield tools
