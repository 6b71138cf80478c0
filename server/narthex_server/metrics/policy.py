"""Metrics of the policy."""

from prometheus_client import CollectorRegistry, Counter


class PolicyMetrics:
    """The policy's observer; rules are named in its file, so the series are as many as it has rules."""

    def __init__(self, target: CollectorRegistry) -> None:
        self._decisions = Counter(
            "narthex_policy_decisions", "Tool calls that a rule decided.", ("rule", "effect"), registry=target
        )
        self._approvals = Counter(
            "narthex_policy_approvals",
            "Calls that needed a yes, by what they got.",
            ("rule", "outcome"),
            registry=target,
        )
        self._limits = Counter(
            "narthex_policy_limits", "Calls that met a limit of their rule.", ("rule", "limit"), registry=target
        )
        self._reloads = Counter("narthex_policy_reloads", "Changes of the file.", ("outcome",), registry=target)
        for outcome in ("ok", "failed"):
            self._reloads.labels(outcome)
        self._bound: dict[tuple[str, str], Counter] = {}

    def on_decision(self, rule: str, effect: str) -> None:
        if (bound := self._bound.get((rule, effect))) is None:
            bound = self._bound[rule, effect] = self._decisions.labels(rule, effect)
        bound.inc()

    def on_approval(self, rule: str, outcome: str) -> None:
        self._approvals.labels(rule, outcome).inc()

    def on_limit(self, rule: str, limit: str) -> None:
        self._limits.labels(rule, limit).inc()

    def on_reload(self, ok: bool) -> None:
        self._reloads.labels("ok" if ok else "failed").inc()
