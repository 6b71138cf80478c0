import time

import pytest
from narthex_server.tools.uri_pattern import LONGEST_TEMPLATE, LONGEST_URI, UriPattern


@pytest.mark.parametrize(
    ("template", "fits", "does_not"),
    [
        ("a:b", ["a:b"], ["a:", "a:bc", ""]),
        ("a:{x}", ["a:", "a:b", "a:b%20c", "a:1,2"], ["a:b/c", "a:b?c", "a:b#c", "b:b"]),
        ("a:{x}/d", ["a:1/d", "a:/d"], ["a:1/e", "a:1/2/d", "a:1"]),
        ("a:{x}{y}", ["a:12"], ["a:1/2"]),
        ("a:{x,y}", ["a:1,2"], ["a:1/2"]),
        ("a:{+x}", ["a:b/c?d#e"], ["b:b"]),
        ("a:{+x}/z", ["a:b/c/z", "a:/z"], ["a:b/c"]),
        ("a:{x*}/z", ["a:b/c/z"], ["a:b/c"]),
        ("a:b{#x}", ["a:b", "a:b#c/d"], ["a:bc"]),
        ("a:b{.x}", ["a:b", "a:b.txt"], ["a:btxt", "a:b/c"]),
        ("a:b{/x}", ["a:b", "a:b/c"], ["a:bc", "a:b/c/d"]),
        ("a:b{/x}{/y}", ["a:b", "a:b/c", "a:b/c/d"], ["a:b/c/d/e"]),
        ("a:b{/x*}", ["a:b/c/d"], ["a:bc"]),
        ("a:b{/x,y}", ["a:b/c/d"], ["a:bc"]),
        ("a:b{;x}", ["a:b;x=1"], ["a:b?x=1"]),
        ("a:b{?x,y}", ["a:b", "a:b?x=1&y=2"], ["a:bx=1"]),
        ("a:b?k=1{&x}", ["a:b?k=1", "a:b?k=1&x=2"], ["a:b?k=12"]),
        ("a:{ü}/ß", ["a:é/ß"], ["a:é/s"]),
        ("a:{b", ["a:{b"], ["a:b"]),
        ("a:b}", ["a:b}"], ["a:b"]),
    ],
)
def test_a_template_fits_what_it_expands_to(template, fits, does_not):
    pattern = UriPattern(template)
    assert [uri for uri in fits if not pattern.matches(uri)] == []
    assert [uri for uri in does_not if pattern.matches(uri)] == []


def test_what_is_too_long_fits_nothing():
    assert not UriPattern("{+x}" + "a" * LONGEST_TEMPLATE).matches("a" * LONGEST_TEMPLATE)
    assert not UriPattern("{+x}").matches("a" * (LONGEST_URI + 1))
    assert UriPattern("{+x}").matches("a" * LONGEST_URI)


def test_a_template_made_to_be_slow_is_not():
    pattern = UriPattern("{+x}a" * 200)
    began = time.perf_counter()
    assert not pattern.matches("a" * (LONGEST_URI - 1) + "b")
    assert time.perf_counter() - began < 1
