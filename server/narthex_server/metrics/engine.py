"""Metrics of the engines, under vLLM's names behind our prefix."""

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.engine.observer import EngineStats, RequestReport, StepReport

MODEL = ("model_name",)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
REQUEST = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
FINISHED = ("stop", "length", "cancelled", "error")


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
        # a copy, as this is another thread than the one in which models come and go
        stats = {model: snapshot() for model, snapshot in tuple(self._engines.items())}

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
        yield family(counter, "num_preemptions", "Requests sent back to wait for others.", lambda s: s.preemptions)
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
