"""Bodies, read member by member."""

import pytest
from narthex_bridge.faces.body import Fields, fields
from narthex_bridge.http.refusal import Refusal


def test_null_is_absent():
    body = fields(b'{"a": null}')
    assert "a" not in body and body.text("a") is None and body.object("a") is None and not body.unread()
    assert not body.array("a") and not body.texts("a") and not body.wholes("a") and not body.objects("a")


def test_values_are_read_as_what_they_are():
    body = fields(b'{"t": "x", "f": false, "i": -1, "w": 4294967295, "n": 1, "o": {"p": [{"q": 2.5}]}, "s": "alone"}')
    assert (body.text("t"), body.flag("f"), body.integer("i"), body.whole("w")) == ("x", False, -1, 2**32 - 1)
    assert body.number("n") == 1 and body.texts("s") == ("alone",)
    assert body.json("o") == b'{"p":[{"q":2.5}]}' and not body.unread()


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("text", 1), ("flag", 0), ("integer", 1.0), ("integer", True), ("whole", -1), ("whole", 2**32), ("number", "1"),
        ("number", False), ("array", {}), ("texts", [1]), ("wholes", [True]), ("wholes", [2**32]), ("object", []),
        ("json", []),
    ],
)  # fmt: skip
def test_other_values_are_refused_with_their_whole_path(read, value):
    inner = Fields({"items": [{"x": value}]}, "outer.").objects("items")[0]
    with pytest.raises(Refusal, match=r"^outer\.items\[0\]\.x must ") as caught:
        getattr(inner, read)("x")
    assert (caught.value.status, caught.value.param) == (400, "outer.items[0].x")


def test_a_choice_and_a_needed_member_say_what_would_do():
    with pytest.raises(Refusal, match="a must be one of b, c"):
        Fields({"a": "d"}).one_of("a", "b", "c")
    with pytest.raises(Refusal, match="a is missing"):
        Fields({}).needed_text("a")
    with pytest.raises(Refusal, match=r"a\[1\] must be an object"):
        Fields({"a": [{}, 1]}).objects("a")
