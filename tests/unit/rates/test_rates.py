import pytest
from narthex.rates import UNLIMITED, Rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100/minute", Rate(100, 60)), ("1/second", Rate(1, 1)), ("5/hour", Rate(5, 3600)), ("9/day", Rate(9, 86400))],
)
def test_a_rate_reads_as_it_is_written(text, rate):
    assert Rate.parse(text) == rate
    assert str(rate) == text


def test_off_is_no_limit():
    assert Rate.parse("off") == UNLIMITED
    assert str(UNLIMITED) == "off"


@pytest.mark.parametrize(
    "text", ["", "0/minute", "-1/minute", "100", "100/", "100/minutes", "1.5/second", "1/m", "9" * 10 + "/day"]
)
def test_anything_else_is_told_what_fits(text):
    with pytest.raises(ValueError, match="100/minute"):
        Rate.parse(text)
