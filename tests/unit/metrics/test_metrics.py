"""The server's own metrics: names, labels, and values that follow the engine and the catalog."""

import subprocess
import sys
import urllib.request

import pytest
from narthex.settings import Address
from narthex_server.embedding.loop import BatchReport
from narthex_server.engine.observer import EngineStats, RequestReport, StepReport
from narthex_server.lot.terms import Priority
from narthex_server.metrics.agent import AgentMetrics
from narthex_server.metrics.catalog import MisfitMetrics, OfferMetrics
from narthex_server.metrics.embedding import EmbeddingMetrics
from narthex_server.metrics.engine import EngineMetrics
from narthex_server.metrics.lot import REASONS, LotMetrics
from narthex_server.metrics.models import ModelMetrics
from narthex_server.metrics.registry import new_registry, served
from narthex_server.metrics.remote import RemoteMetrics
from narthex_server.metrics.results import CacheMetrics
from narthex_server.metrics.tools import ToolMetrics, UpstreamMetrics
from narthex_server.metrics.upstreams import ProcessMetrics
from narthex_server.pipelines.events import Budget, Finished, FinishReason, Usage
from narthex_server.pipelines.library import Listed, State
from narthex_server.pipelines.models import Kind, RemoteModel
from narthex_server.pipelines.remote.handle import RemoteHandle
from narthex_server.pipelines.remote.refusals import Refusals
from narthex_server.principal import LOCAL
from narthex_server.tools.names import Renamed, RenameReason
from narthex_server.tools.report import CallReport
from narthex_server.tools.results.cache import OVERHEAD, CacheLimits, ResultCache
from narthex_server.tools.server import ServerState, ServerStatus, Vitals
from narthex_server.tools.step import Trail
from narthex_server.tools.tool import CallContext, ToolResult

DEMO = {"model_name": "demo"}


@pytest.fixture
def registry():
    return new_registry()


def test_levels_and_counts_are_read_when_asked(registry):
    stats = [EngineStats(4, running=1, waiting=2, kv_tokens_used=25, kv_tokens_capacity=100, generated_tokens=7)]
    EngineMetrics(registry).watch("demo", lambda: stats[-1])
    assert registry.get_sample_value("narthex_num_requests_running", DEMO) == 1
    assert registry.get_sample_value("narthex_num_requests_waiting", DEMO) == 2
    assert registry.get_sample_value("narthex_kv_cache_usage_ratio", DEMO) == 0.25
    counts = {"preemptions": 2, "drafts": 3, "draft_tokens": 20, "accepted_tokens": 11}
    stats.append(EngineStats(4, prompt_tokens=10, cached_tokens=4, generated_tokens=9, **counts))
    assert registry.get_sample_value("narthex_generation_tokens_total", DEMO) == 9
    assert registry.get_sample_value("narthex_prefix_cache_queries_total", DEMO) == 10
    assert registry.get_sample_value("narthex_prefix_cache_hits_total", DEMO) == 4
    spec = (f"spec_decode_num_{name}" for name in ("drafts", "draft_tokens", "accepted_tokens"))
    names = ("num_preemptions", *spec)
    assert [registry.get_sample_value(f"narthex_{name}_total", DEMO) for name in names] == [2, 3, 20, 11]


def test_the_levels_of_a_model_end_with_it(registry):
    engines, embedders = EngineMetrics(registry), EmbeddingMetrics(registry)
    engines.watch("demo", lambda: EngineStats(4, running=1))
    embedders.watch("demo", lambda: 2)
    engines.observer("demo").on_step(StepReport(1, 0, 0.01))
    for watched in (engines, embedders):
        watched.unwatch("demo")
        watched.unwatch("demo")
    for level in ("num_requests_running", "num_slots", "embedding_requests_running"):
        assert registry.get_sample_value(f"narthex_{level}", DEMO) is None
    assert registry.get_sample_value("narthex_engine_step_seconds_count", DEMO) == 1


def test_remote_models_count_like_engines_and_embedders(registry):
    engines, embedders = EngineMetrics(registry), EmbeddingMetrics(registry)
    remotes = RemoteMetrics(registry, engines, embedders)
    handle = RemoteHandle(Unreachable(), Refusals("big"))
    text, vectors = RemoteModel("big", Kind.TEXT, handle), RemoteModel("vectors", Kind.VECTORS, handle)
    for model in (text, vectors):
        remotes.watch(model)
    handle.spend(Usage(5, 3, 1))
    observer = remotes.observer("big")
    observer.on_exchange("ok")
    observer.on_generated(RequestReport("r", "length", 5, 1, 3, 0.0, 0.1, (), 0.2))
    remotes.observer("vectors").on_embedded(2, 7, "ok", 0.1)

    def value(name, model="big", **labels):
        return registry.get_sample_value(f"narthex_{name}", {"model_name": model, **labels})

    assert (value("num_slots"), value("prompt_tokens_total"), value("generation_tokens_total")) == (64, 5, 3)
    assert value("remote_requests_total", outcome="ok") == 1 and value("remote_requests_total", outcome="busy") == 0
    assert value("request_success_total", finished_reason="length") == value("time_to_first_token_seconds_count") == 1
    assert value("embedding_inputs_total", "vectors") == 2 and value("embedding_tokens_total", "vectors") == 7
    assert value("embedding_requests_running", "vectors") == 0
    for model in (text, vectors):
        remotes.unwatch(model)
    assert value("num_slots") is value("embedding_requests_running", "vectors") is None


class Unreachable:
    """A connection that nobody uses."""


def test_each_model_is_in_one_state_and_its_loads_are_timed(registry):
    models = ModelMetrics(registry)
    listed = [Listed("demo", State.LOADING)]
    models.watch(lambda: listed)

    def state(name: str) -> float | None:
        return registry.get_sample_value("narthex_model_state", DEMO | {"state": name})

    assert (state("loading"), state("ready")) == (1, 0)
    models.on_loaded("demo", 1.5)
    listed[:] = [Listed("demo", State.READY)]
    assert (state("loading"), state("ready")) == (0, 1)
    assert registry.get_sample_value("narthex_model_load_seconds_sum", DEMO) == 1.5
    listed.clear()
    assert state("ready") is None


def test_an_ended_request_is_timed_in_each_of_its_parts(registry):
    observer = EngineMetrics(registry).observer("demo")
    assert registry.get_sample_value("narthex_request_success_total", DEMO | {"finished_reason": "stop"}) == 0
    observer.on_step(StepReport(1, 0, 0.01))
    observer.on_finished(RequestReport("r", "stop", 3, 0, 3, 0.1, 0.2, (0.01, 0.02), 0.23))
    observer.on_finished(RequestReport("q", "cancelled", 3, 0, 0, None, None, (), 0.5))
    counts = {
        "time_to_first_token_seconds": 1,
        "inter_token_latency_seconds": 2,
        "e2e_request_latency_seconds": 2,
        "request_queue_time_seconds": 1,
        "request_prompt_tokens": 2,
        "engine_step_seconds": 1,
    }
    assert {name: registry.get_sample_value(f"narthex_{name}_count", DEMO) for name in counts} == counts
    assert registry.get_sample_value("narthex_request_success_total", DEMO | {"finished_reason": "cancelled"}) == 1


def test_embedders_count_what_they_encode(registry):
    made = EmbeddingMetrics(registry)
    made.watch("mini", lambda: 3)
    observer, labels = made.observer("mini"), {"model_name": "mini"}
    observer.on_batch(BatchReport(texts=4, tokens=30, padding=2, seconds=0.01))
    observer.on_finished("ok", 0.02)
    observer.on_finished("cancelled", 0.01)
    names = ("inputs_total", "tokens_total", "padding_tokens_total", "requests_running", "request_seconds_count")
    values = [registry.get_sample_value(f"narthex_embedding_{name}", labels) for name in names]
    assert values == [4, 30, 2, 3, 2]
    outcomes = [
        registry.get_sample_value("narthex_embedding_requests_total", labels | {"outcome": outcome})
        for outcome in ("ok", "cancelled", "error")
    ]
    assert outcomes == [1, 1, 0]


def report(kind, name, server, outcome):
    return CallReport(kind, name, name, server, b"{}", CallContext(LOCAL, "r"), Trail(), 0.1, outcome)


def test_calls_are_counted_by_tool_server_and_outcome(registry):
    tools = ToolMetrics(registry)
    for outcome in ("ok", "ok", "tool_error"):
        tools.on_call(report("tool", "a__x", "a", outcome))
    labels = {"tool": "a__x", "server": "a"}
    assert registry.get_sample_value("narthex_tool_calls_total", labels | {"outcome": "ok"}) == 2
    assert registry.get_sample_value("narthex_tool_call_seconds_count", labels) == 3


def test_tools_that_an_upstream_invents_for_ever_do_not_fill_the_memory(registry, monkeypatch):
    monkeypatch.setattr("narthex_server.metrics.tools.MAX_SERIES", 3)
    tools = ToolMetrics(registry)
    for number in (0, 1, 2, 3, 4, 0):
        tools.on_call(report("tool", f"a__x{number}", "a", "ok"))
    series = registry.collect()
    counted = {
        sample.labels["tool"]: sample.value
        for metric in series
        for sample in metric.samples
        if sample.name == "narthex_tool_calls_total"
    }
    assert counted == {"a__x0": 2, "a__x1": 1, "a__x2": 1, "other": 2}


def test_reads_prompts_and_completions_are_counted_by_outcome(registry):
    offers = ToolMetrics(registry)
    for outcome in ("ok", "ok", "not_found"):
        offers.on_call(report("resource", "", "", outcome))
    counted = registry.get_sample_value("narthex_offer_requests_total", {"kind": "resource", "outcome": "ok"})
    assert counted == 2
    assert registry.get_sample_value("narthex_offer_request_seconds_count", {"kind": "resource"}) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_of_upstreams_show_what_they_use(registry):
    program = "import sys; held = bytearray(b'x' * (50 << 20)); print(flush=True); sys.stdin.read()"
    warden = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = [sys.executable, "-c", warden, sys.executable, "-c", program]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    vitals = {"a": Vitals(processes=(child.pid,)), "b": Vitals(), "gone": Vitals(processes=(2**22 + 1,))}
    ProcessMetrics(registry, lambda: vitals)

    def used(name: str, server: str = "a") -> float | None:
        return registry.get_sample_value(f"narthex_upstream_process_{name}", {"server": server})

    with child:
        assert child.stdout is not None and child.stdout.readline()
        assert 50 << 20 < used("memory_bytes") < 1 << 30
        assert used("cpu_seconds") > 0 and used("open_fds") >= 3 and used("children") == 1
        assert [used("children", name) for name in ("b", "gone")] == [None, 0]


def test_upstreams_show_whether_they_are_up(registry):
    states = (
        ServerStatus("a", "stdio", ServerState.READY, tools=3, connections=2),
        ServerStatus("b", "http", ServerState.UNHEALTHY),
    )
    UpstreamMetrics(registry, lambda: states)
    assert registry.get_sample_value("narthex_upstream_up", {"server": "a"}) == 1
    assert registry.get_sample_value("narthex_upstream_up", {"server": "b"}) == 0
    assert registry.get_sample_value("narthex_upstream_tools", {"server": "a"}) == 3
    assert registry.get_sample_value("narthex_upstream_connections", {"server": "a"}) == 2


def test_renamed_tools_hidden_characters_and_misfits_are_counted(registry):
    renamed = [Renamed("a", name, name + "_1", RenameReason.TAKEN, name) for name in ("x", "y")]
    OfferMetrics(registry, lambda: renamed, lambda: {("a", "prompt"): 4})
    assert registry.get_sample_value("narthex_upstream_renamed_tools", {"server": "a", "reason": "taken"}) == 2
    assert registry.get_sample_value("narthex_upstream_hidden_characters", {"server": "a", "kind": "prompt"}) == 4
    MisfitMetrics(registry).on_misfit("a__x", "a")
    assert registry.get_sample_value("narthex_tool_result_misfits_total", {"tool": "a__x", "server": "a"}) == 1


def test_they_are_served_over_http_until_the_end(registry):
    with served(registry, Address("127.0.0.1", 0)) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            text = page.read().decode()
        assert "narthex_build_info" in text and "_created" not in text
        with pytest.raises(OSError), served(registry, Address("127.0.0.1", port)):
            pass
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)


def test_a_run_is_counted_by_how_it_ended(registry):
    metrics = AgentMetrics(registry, lambda: 2)
    metrics.on_run(Finished(FinishReason.BUDGET, Usage(), budget=Budget.SECONDS), 3, 5)
    metrics.on_run(Finished(FinishReason.REPETITION, Usage()), 6, 6)
    metrics.on_run(None, 1, 0)

    def ended(outcome):
        return registry.get_sample_value("narthex_agent_runs_total", {"outcome": outcome})

    assert [ended(outcome) for outcome in ("max_seconds", "repetition", "failed", "stop")] == [1, 1, 1, 0]
    assert ended("budget") is None
    assert registry.get_sample_value("narthex_agent_rounds_sum") == 10
    assert registry.get_sample_value("narthex_agent_tool_calls_sum") == 11
    assert registry.get_sample_value("narthex_inputs_waiting") == 2


def test_kept_results_are_counted_as_they_are_looked_for_and_go(registry):
    metrics = CacheMetrics(registry)
    assert registry.get_sample_value("narthex_tool_cache_entries") == 0
    cache = ResultCache(CacheLimits(max_entries=1), metrics.on_eviction)
    metrics.watch(cache)
    for key in "ab":
        cache.put(key, ToolResult(b"[]"), 60)
        metrics.on_lookup("files", "miss")
    metrics.on_lookup("files", "hit")
    assert registry.get_sample_value("narthex_tool_cache_entries") == 1
    assert registry.get_sample_value("narthex_tool_cache_bytes") == 2 + OVERHEAD
    assert registry.get_sample_value("narthex_tool_cache_evictions_total", {"reason": "space"}) == 1
    counts = [
        registry.get_sample_value("narthex_tool_cache_total", {"server": "files", "outcome": outcome})
        for outcome in ("miss", "hit")
    ]
    assert counts == [2, 1]


def test_what_a_pool_turns_away_counts_from_zero_once_it_admits(registry):
    metrics = LotMetrics(registry)
    metrics.on_admitted("model/demo", Priority.NORMAL, 0.0)
    pool = {"pool": "model/demo"}
    refused = [registry.get_sample_value("narthex_lot_refused_total", pool | {"reason": reason}) for reason in REASONS]
    assert refused == [0, 0, 0, 0]
    ended = [registry.get_sample_value(f"narthex_lot_{name}_total", pool) for name in ("expired", "abandoned")]
    assert ended == [0, 0]
    metrics.on_refused("model/demo", REASONS[0])
    assert registry.get_sample_value("narthex_lot_refused_total", pool | {"reason": REASONS[0]}) == 1
