from math import inf

import pytest

from bench.readings import Reading

BEFORE = Reading(100, 10, 1.0, {0.001: 6.0, 0.01: 10.0, inf: 10.0})
AFTER = Reading(300, 20, 3.0, {0.001: 10.0, 0.01: 19.0, inf: 20.0})


def test_what_happened_between_two_readings():
    assert AFTER.since(BEFORE) == Reading(200, 10, 2.0, {0.001: 4.0, 0.01: 9.0, inf: 10.0})
    assert AFTER.since(BEFORE) + BEFORE == AFTER


@pytest.mark.parametrize(("quantile", "seconds"), [(0.5, 0.0), (0.95, 0.0), (0.96, 0.001), (0.99, 0.01), (1.0, inf)])
def test_most_acquisitions_do_not_wait(quantile, seconds):
    assert AFTER.since(BEFORE).wait(quantile) == seconds


def test_those_that_wait_are_told_apart():
    assert [AFTER.since(BEFORE).wait_if_any(at) for at in (0.4, 0.5, 0.9, 0.99)] == [0.001, 0.01, 0.01, inf]


def test_a_lock_that_nobody_took_has_no_waits():
    assert Reading().wait(0.99) == Reading().wait_if_any(0.99) == 0.0
