import pytest
from narthex_server.tools.audience import EVERYBODY, Audience


def test_patterns_say_who_is_in_it():
    some = Audience(("acme", "team-*", "lab-[12]"))
    assert all(map(some.admits, ("acme", "team-", "team-red", "lab-2")))
    assert not any(map(some.admits, ("Acme", "acme2", "", "lab-3", "my-team-x")))
    assert EVERYBODY.admits("") and EVERYBODY.admits("anyone")
    assert not Audience(()).admits("anyone")


@pytest.mark.parametrize(
    ("globs", "single"), [(("a",), True), ((), True), (("a", "b"), False), (("a*",), False), (("a?", "b"), False)]
)
def test_it_is_known_whether_it_is_one_tenant(globs, single):
    assert Audience(globs).is_single is single
