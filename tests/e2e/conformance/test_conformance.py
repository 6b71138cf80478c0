"""The official conformance suites, each run once through the whole stack; a test for every scenario."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

SUITES = json.loads(Path(__file__).with_name("suites.json").read_text())
THE_SERVERS_CHOICE = {
    "server-sse-streams-functional",  # a short answer may be JSON
    "server-sse-priming-event",  # so may that of the tool that closes its stream,
    "server-sse-retry-field",
    "server-sse-disconnect-resume",  # and it is the upstream's own stream that it closes
}
"""Checks of streams that a server need not open."""

RUNS = [
    ("0.1.16", ""),
    ("0.1.16", "2025-11-25"),
    ("0.2.0-2025-11-25", ""),
    ("0.2.0-2025-11-25", "2025-11-25"),
    ("0.2.0-2026-07-28", ""),
]
"""Suites, and the protocol that the server behind the bridge is asked for."""


def judged(suite: str) -> list[str]:
    """The scenarios that have to pass: also those that the suite's own verdict leaves out, but for extensions."""
    return SUITES[suite]["required"] + SUITES[suite]["unscored"]


def ids(checks: list[dict], status: str) -> set[str]:
    return {check["id"] for check in checks if check["status"] == status}


def told(checks: list[dict]) -> str:
    """What was not right, a line each."""
    lines = [
        f"{check['status']} {check['id']}: {check.get('errorMessage') or check['description']}" for check in checks
    ]
    return "\n".join(lines)


def failures(checks: list[dict]) -> list[dict]:
    return [check for check in checks if check["status"] == "FAILURE"]


def new_warnings(checks: list[dict], alone: list[dict]) -> list[dict]:
    """Those that the server behind the bridge does not earn by itself."""
    return [check for check in checks if check["status"] == "WARNING" and check["id"] not in ids(alone, "WARNING")]


@pytest.mark.parametrize(
    ("suite", "upstream", "scenario"), [(suite, upstream, name) for suite, upstream in RUNS for name in judged(suite)]
)
def test_the_bridge_passes(suite, upstream, scenario, bridges, fixture_alone, run_suite):
    ran = run_suite(suite, f"{bridges(upstream)}/mcp")
    assert scenario in ran.checks, f"{scenario} has no result; the suite said:\n{ran.output[-2000:]}"
    checks, alone = ran.checks[scenario], run_suite(suite, f"{fixture_alone}/mcp").checks[scenario]
    if wrong := failures(checks) + new_warnings(checks, alone):
        pytest.fail(told(wrong), pytrace=False)
    left_out = ids(alone, "SUCCESS") - ids(checks, "SUCCESS") - THE_SERVERS_CHOICE
    assert not left_out, "checks that could not be made behind the bridge"


@pytest.mark.parametrize("suite", SUITES)
def test_the_suite_holds_exactly_the_listed_scenarios(suite, fixture_alone, run_suite):
    ran = run_suite(suite, f"{fixture_alone}/mcp")
    assert set(ran.checks) == {*judged(suite), *SUITES[suite]["ignored"]}


@pytest.mark.parametrize("suite", SUITES)
def test_the_fixture_passes_without_the_bridge(suite, fixture_alone, run_suite):
    ran = run_suite(suite, f"{fixture_alone}/mcp")
    wrong = [failure for name in judged(suite) for failure in failures(ran.checks[name])]
    assert not wrong, told(wrong)


def test_clients_come_back_to_a_stream_that_the_bridge_closes(closing_bridge, run_scenario):
    checks = run_scenario("0.1.16", f"{closing_bridge}/mcp", "server-sse-polling")
    assert THE_SERVERS_CHOICE - {"server-sse-streams-functional"} <= ids(checks, "SUCCESS"), told(checks)
