"""RFC 8785: its own examples, and properties of any value."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as some
from narthex_server.audit.canonical import canonical

VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(-(2**53), 2**53) | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
    ],
)
def test_numbers_are_written_as_ecmascript_writes_them(bits, text):
    assert canonical(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


def test_names_are_ordered_by_their_units_in_utf_16():
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\u00f6"]
    ordered = list(json.loads(canonical(dict.fromkeys(names, 0))))
    assert ordered == ["\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_texts_are_escaped_no_more_than_needed():
    assert canonical('\u20ac$\x0f\nA\'B"\\\\"/') == b'"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'


@given(VALUES)
def test_what_is_written_means_the_same_and_is_written_the_same_again(value):
    written = canonical(value)
    again = json.loads(written)
    assert again == value
    assert canonical(again) == written


@given(some.dictionaries(some.text(), some.integers(), min_size=2))
def test_the_order_of_names_does_not_matter(value):
    assert canonical(dict(reversed(value.items()))) == canonical(value)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "\ud800", {1}])
def test_what_is_no_json_is_refused(value):
    with pytest.raises(ValueError):
        canonical(value)
