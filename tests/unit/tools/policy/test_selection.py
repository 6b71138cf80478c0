import pytest
from narthex_server.tools.policy.selection import MISPLACED, MISSING, Selection

ARGUMENTS = {
    "a": {"b": [1, {"c": 2}], "x/y": 3, "m~n": 4, "": 5, "*": 6},
    "list": [[1], [2, 3]],
    "text": "abc",
    "null": None,
}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("", [ARGUMENTS]),
        ("/text", ["abc"]),
        ("text", ["abc"]),
        ("/a/b/0", [1]),
        ("a.b[0]", [1]),
        ("a.b.1.c", [2]),
        ("a.b[1].c", [2]),
        ("/a/x~1y", [3]),
        ("/a/m~0n", [4]),
        ("/a/", [5]),
        ("/list/*/*", [1, 2, 3]),
        ("list[*][*]", [1, 2, 3]),
        ("/list/*/1", [MISSING, 3]),
        ("/null", [None]),
        ("/none", [MISSING]),
        ("/a/none/x", [MISSING]),
        ("/a/b/7", [MISSING]),
        ("/text/0", [MISPLACED]),
        ("/null/x", [MISPLACED]),
        ("/a/*", [MISPLACED]),
        ("/text/*", [MISPLACED]),
        ("/list/x", [MISPLACED]),
        ("/list/\u0663", [MISPLACED]),
        ("/list/-1", [MISPLACED]),
        ("/Text", [MISSING]),
        ("/te\u0445t", [MISSING]),
    ],
)
def test_a_path_selects(path, values):
    assert Selection(path).of(ARGUMENTS) == values


@pytest.mark.parametrize("path", ["/a~2b", "/a~", "a..b", ".a", "a.", "[0]"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError):
        Selection(path)
