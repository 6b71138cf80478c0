"""Predicates on plain values."""

import time

import pytest
from narthex_server.tools.policy.predicates import absent, at_most, equals, matches, max_length
from narthex_server.tools.policy.selection import MISSING


@pytest.mark.parametrize(
    ("wanted", "given", "holds"),
    [
        ("main", "main", True),
        ("main", "Main", False),
        ("main", "m\u0430in", False),
        ("main", ["main"], False),
        (1, 1.0, True),
        (1, True, False),
        (True, 1, False),
        (True, True, True),
        (0, False, False),
        ("1", 1, False),
        ([1, "a"], [1, "a"], True),
        ([1], [True], False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("x", None, False),
        (10**30, 10**30, True),
    ],
)
def test_equals_is_exact(wanted, given, holds):
    assert equals.judge(wanted)(given, "") is holds


@pytest.mark.parametrize(
    ("pattern", "given", "holds"),
    [
        ("[a-z]+", "abc", True),
        ("[a-z]+", "abc1", False),
        ("[a-z]+", "abc\n", False),
        ("[a-z]+", "x\nabc", False),
        ("a|b", "b", True),
        ("a|b", "bc", False),
        ("(?i)main", "MAIN", True),
        ("main", "m\u0430in", False),
        (".*", "a\nb", False),
        ("[a-z]+", 1, None),
        ("[a-z]+", None, None),
        ("[a-z]+", ["abc"], None),
    ],
)
def test_matches_means_the_whole_text(pattern, given, holds):
    assert matches.judge(pattern)(given, "") is holds


def test_a_pattern_that_hangs_other_engines_does_not_hang():
    judged = matches.judge("(a+)+b")
    began = time.perf_counter()
    assert judged("a" * 200_000, "") is False
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("pattern", ["(", "a)|(b", "(?=a)", r"(a)\1", "a{1000}{1000}", 1])
def test_patterns_that_cannot_be_kept_to_a_time_are_refused(pattern):
    with pytest.raises(ValueError):
        matches.judge(pattern)


def test_lengths_and_numbers():
    assert [max_length.judge(2)(given, "") for given in ("ab", "abc", [1, 2], [1, 2, 3], 5, None, {"a": 1})] == [
        True,
        False,
        True,
        False,
        None,
        None,
        None,
    ]
    assert [at_most.judge(10)(given, "") for given in (10, 10.5, -1, 10**400, "5", True, None)] == [
        True,
        False,
        True,
        False,
        None,
        None,
        None,
    ]


def test_null_is_neither_there_nor_not():
    assert [absent.judge(True)(given, "") for given in (MISSING, None, "x")] == [True, None, False]
    assert [absent.judge(False)(given, "") for given in (MISSING, None, "x")] == [False, None, True]


@pytest.mark.parametrize(
    ("predicate", "value"),
    [
        (absent, 1),
        (at_most, "1"),
        (at_most, True),
        (at_most, float("nan")),
        (max_length, -1),
        (max_length, 1.5),
        (max_length, True),
        (equals, object()),
        (equals, None),
    ],
)
def test_settings_that_mean_nothing_are_refused(predicate, value):
    with pytest.raises(ValueError):
        predicate.judge(value)
