"""Metrics of runs of the server's tools."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from narthex_server.pipelines.events import Budget, Finished, FinishReason

ROUNDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CALLS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)


class AgentMetrics:
    """The runs' observer; `waiting` tells how many questions wait for an answer."""

    def __init__(self, target: CollectorRegistry, waiting: Callable[[], int]) -> None:
        self._runs = Counter("narthex_agent_runs", "Ended runs of tools.", ("outcome",), registry=target)
        self._rounds = Histogram("narthex_agent_rounds", "Rounds of a run.", buckets=ROUNDS, registry=target)
        self._calls = Histogram("narthex_agent_tool_calls", "Tool calls made in a run.", buckets=CALLS, registry=target)
        Gauge(
            "narthex_inputs_waiting", "Approvals and other answers that calls wait for.", registry=target
        ).set_function(waiting)
        for outcome in (*FinishReason, *Budget):
            if outcome is not FinishReason.BUDGET:
                self._runs.labels(outcome.value)
        self._runs.labels("failed")

    def on_run(self, finished: Finished | None, rounds: int, calls: int) -> None:
        """Counts one run; the outcome of one that reached a budget is the budget."""
        outcome = "failed" if finished is None else (finished.budget or finished.reason).value
        self._runs.labels(outcome).inc()
        self._rounds.observe(rounds)
        self._calls.observe(calls)
