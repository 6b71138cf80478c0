import re

import pytest
from narthex_server.weights.patterns import bounded


@pytest.mark.parametrize(
    "pattern", [r"model\.layers\.(\d+)\.mlp\.down_proj", "q_proj|v_proj", r"lm_head\..*", "a" * 256]
)
def test_ordinary_patterns_are_compiled(pattern):
    assert bounded(pattern) == re.compile(pattern)


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        (r"^(\w+\.?)+!$", "none of a group"),
        ("(a*)*(b*)*$", "none of a group"),
        (".*.*.*.*x", "3 repetitions"),
        ("a" * 257, "256 characters"),
        ("(", "cannot be read: missing"),
    ],
)
def test_patterns_that_may_never_end_to_match_are_refused(pattern, complaint):
    with pytest.raises(ValueError, match=complaint):
        bounded(pattern)
