"""What a server says of its locks."""

import pytest


@pytest.fixture(scope="module")
def watched(launch, demo, nothing):
    return launch("--model", demo, "--mcp-config", str(nothing), "--lock-watchdog", "60")


def test_the_locks_of_a_server_are_in_its_metrics_from_the_start(watched):
    metrics = watched.metrics()
    counts = (key for key in metrics if key[0] == "narthex_lock_acquisitions_total")
    taken = {dict(key[1])["lock"]: metrics[key] for key in counts}
    assert set(taken) == {
        "grammar_thread", "large_results", "model_loading", "model_memory", "model_router", "sampling", "upstream_fleet"
    }  # fmt: skip
    assert taken["model_loading"] == 1
    assert taken["model_router"] >= 1
    assert watched.metric("narthex_lock_contended_total", lock="model_loading") == 0


def test_the_watchdog_has_nothing_to_say_of_a_healthy_server(watched):
    assert "lock" not in watched.log.read_text()


@pytest.mark.parametrize("mode", ["off", "plain"])
def test_a_server_that_does_not_count_has_none(launch, nothing, mode):
    assert not [name for name, _ in launch("--mcp-config", str(nothing), "--locks", mode).metrics() if "_lock_" in name]
