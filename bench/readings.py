"""What a server's /metrics say of its locks between two moments."""

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from prometheus_client.parser import text_string_to_metric_families

WAIT, CONTENDED, ACQUIRED = (
    "narthex_lock_wait_seconds", "narthex_lock_contended_total", "narthex_lock_acquisitions_total"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """One lock's counts: `buckets` are the waits of at most so many seconds, cumulative."""

    acquisitions: float = 0.0
    contended: float = 0.0
    waited: float = 0.0
    buckets: Mapping[float, float] = field(default_factory=dict)

    def since(self, earlier: "Reading") -> "Reading":
        return Reading(
            self.acquisitions - earlier.acquisitions,
            self.contended - earlier.contended,
            self.waited - earlier.waited,
            {bound: count - earlier.buckets.get(bound, 0.0) for bound, count in self.buckets.items()},
        )

    def __add__(self, other: "Reading") -> "Reading":
        bounds = self.buckets.keys() | other.buckets.keys()
        return Reading(
            self.acquisitions + other.acquisitions,
            self.contended + other.contended,
            self.waited + other.waited,
            {bound: self.buckets.get(bound, 0.0) + other.buckets.get(bound, 0.0) for bound in sorted(bounds)},
        )

    def wait(self, quantile: float) -> float:
        """The upper end, in seconds, of what this part of all acquisitions waited at most: 0 for those at once."""
        return self._at(quantile * self.acquisitions - (self.acquisitions - self.contended))

    def wait_if_any(self, quantile: float) -> float:
        """The same of those acquisitions alone that had to wait."""
        return self._at(quantile * self.contended)

    def _at(self, rank: float) -> float:
        if rank <= 0:
            return 0.0
        # A histogram may hold the acquisitions that did not wait, too; they are in its first bucket.
        free = max(self.buckets.get(inf, 0.0) - self.contended, 0.0)
        return next((bound for bound, count in sorted(self.buckets.items()) if count - free >= rank), inf)


Readings = dict[str, Reading]


def readings(address: str) -> Readings:
    """Of every lock by its name; empty for a server that meters none."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        text = page.read().decode()
    values: dict[str, dict[str, float]] = {}
    buckets: dict[str, dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{WAIT}_bucket":
                buckets.setdefault(sample.labels["lock"], {})[float(sample.labels["le"])] = sample.value
            elif sample.name in (CONTENDED, ACQUIRED, f"{WAIT}_sum"):
                values.setdefault(sample.labels["lock"], {})[sample.name] = sample.value
    return {
        name: Reading(found.get(ACQUIRED, 0.0), found.get(CONTENDED, 0.0), found.get(f"{WAIT}_sum", 0.0), buckets[name])
        for name, found in values.items()
    }


def between(before: Readings, after: Readings) -> Readings:
    return {name: reading.since(before.get(name, Reading())) for name, reading in after.items()}
