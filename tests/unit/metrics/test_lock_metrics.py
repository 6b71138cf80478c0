"""Locks in the metrics: counted where they are taken, read when the page is asked for."""

import re
from pathlib import Path

from narthex_server.metrics.locks import LockMetrics
from narthex_server.sync.locks import Locks
from narthex_server.sync.reading import BOUNDS, Distribution, LockReading
from prometheus_client import CollectorRegistry, generate_latest

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
A = {"lock": "a"}


def test_counts_and_times_are_read_when_asked():
    registry, locks = CollectorRegistry(), Locks("metered")
    LockMetrics(registry, locks.readings)
    assert registry.get_sample_value("narthex_lock_acquisitions_total", A) is None
    mutex = locks.mutex("a")
    assert registry.get_sample_value("narthex_lock_contended_total", A) == 0
    for _ in range(17):
        with mutex:
            pass
    assert registry.get_sample_value("narthex_lock_acquisitions_total", A) == 17
    assert registry.get_sample_value("narthex_lock_wait_seconds_count", A) == 0
    assert registry.get_sample_value("narthex_lock_hold_seconds_count", A) == 2


def test_buckets_add_up():
    counts = (3, *[0] * 5, 2, *[0] * (len(BOUNDS) - 8), 1, 4)
    registry = CollectorRegistry()
    LockMetrics(registry, lambda: [LockReading("a", 99, Distribution(counts, 77.5, 60.0))])
    waits = "narthex_lock_wait_seconds"
    found = {le: registry.get_sample_value(f"{waits}_bucket", {**A, "le": le}) for le in ("1e-05", "0.001", "0.005")}
    assert found == {"1e-05": 3, "0.001": 3, "0.005": 5}
    assert registry.get_sample_value(f"{waits}_bucket", {**A, "le": "30.0"}) == 6
    assert registry.get_sample_value(f"{waits}_bucket", {**A, "le": "+Inf"}) == 10
    assert registry.get_sample_value(f"{waits}_count", A) == 10
    assert registry.get_sample_value(f"{waits}_sum", A) == 77.5
    assert registry.get_sample_value("narthex_lock_contended_total", A) == 10


def test_every_metric_is_documented():
    registry = CollectorRegistry()
    LockMetrics(registry, lambda: [LockReading("a")])
    served = {line.split()[2] for line in generate_latest(registry).decode().splitlines() if line[:6] == "# TYPE"}
    section = PAGE.read_text("utf-8").split("## Locks\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(narthex_lock_[a-z_]+)", section)) == served
