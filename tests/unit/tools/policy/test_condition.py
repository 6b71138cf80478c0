"""What a rule makes of values that fit, do not fit, are missing, or cannot be judged."""

import json

import pytest
from narthex_server.tools.policy.condition import MOST_VALUES, Condition
from narthex_server.tools.policy.policy import DEFAULT

AB = {"matches": "[ab]"}


def grants(asked, value, path="/v", **more):
    return Condition(path, asked, granting=True, every=more.get("every")).holds(value, "")


def restricts(asked, value, path="/v", **more):
    return Condition(path, asked, granting=False, every=more.get("every")).holds(value, "")


@pytest.mark.parametrize(
    ("asked", "given", "granted", "restricted"),
    [
        (AB, {"v": "a"}, True, True),
        (AB, {"v": "c"}, False, False),
        (AB, {"v": 1}, False, True),  # a wrong type: nothing is granted for it, and no restriction is evaded by it
        (AB, {"v": ["a"]}, False, True),
        (AB, {"v": None}, False, True),
        (AB, {}, False, False),
        ({"not": AB}, {"v": "a"}, False, False),
        ({"not": AB}, {"v": "c"}, True, True),
        ({"not": AB}, {"v": 1}, False, True),
        ({"not": AB}, {}, False, True),
        ({"absent": True}, {}, True, True),
        ({"absent": True}, {"v": "a"}, False, False),
        ({"absent": True}, {"v": None}, False, True),
        ({"not": {"absent": True}}, {"v": "a"}, True, True),
        ({**AB, "max_length": 1}, {"v": "a"}, True, True),
        ({**AB, "equals": "b"}, {"v": "a"}, False, False),
        ({**AB, "equals": "b"}, {"v": 1}, False, False),  # not b, whatever else it is
        ({**AB, "not": {"equals": "a"}}, {"v": "b"}, True, True),
        ({**AB, "not": {"equals": "a"}}, {"v": "a"}, False, False),
        ({"not": {"max_length": 1, "matches": "a+"}}, {"v": "aa"}, True, True),
    ],
)
def test_who_grants_has_to_know_and_who_restricts_only_to_suspect(asked, given, granted, restricted):
    assert grants(asked, given) is granted
    assert restricts(asked, given) is restricted


@pytest.mark.parametrize(
    ("asked", "given", "granted", "restricted"),
    [
        (AB, ["a", "b"], True, True),
        (AB, ["a", "c"], False, True),
        (AB, ["c"], False, False),
        (AB, [], True, False),
        ({"not": AB}, ["c", "a"], False, True),
        ({"not": AB}, ["c"], True, True),
        (AB, ["a", ["b"]], False, True),
        (AB, "a", False, True),
        (AB, {"0": "a"}, False, True),
        (AB, ["a"] * (MOST_VALUES + 1), False, True),
    ],
)
def test_every_item_of_a_grant_and_any_of_a_restriction(asked, given, granted, restricted):
    assert grants(asked, {"v": given}, "/v/*") is granted
    assert restricts(asked, {"v": given}, "/v/*") is restricted


def test_the_number_of_items_can_be_said():
    assert grants(AB, {"v": ["a", "c"]}, "/v/*", every=False)
    assert not restricts(AB, {"v": ["a", "c"]}, "/v/*", every=True)


@pytest.mark.parametrize("asked", [{}, [], "x", {"mathces": "a"}, {"not": {"not": AB}}, {"not": {}}, {"matches": 1}])
def test_what_is_no_table_of_predicates_is_refused(asked):
    with pytest.raises(ValueError):
        grants(asked, {})


def test_deep_and_wide_arguments_are_judged_like_others(decide):
    deep = json.loads('{"v":' * 99 + "1" + "}" * 99)
    rule = """
        [[rules]]
        name = "plain"
        effect = "allow"
        arguments = {"/v" = {matches = "[ab]"}}
    """
    assert decide(rule, deep) == DEFAULT.name
    assert decide(rule, {"v": "a" * 8_000_000}) == DEFAULT.name
    assert decide(rule, {"v": "a", **{str(number): number for number in range(100_000)}}) == "plain"
