"""The first rule that fits decides; what may be seen follows from it."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as some
from narthex_server.principal import Principal
from narthex_server.tools.policy.document import read_policy
from narthex_server.tools.policy.policy import LONGEST_NAME
from narthex_server.tools.policy.subject import Subject

WORDS = some.sampled_from(["a", "b", "ab", "ba"])
GLOBS = some.lists(some.sampled_from(["a", "b", "a*", "*b", "?", "*", "[ab]b"]), max_size=3)
RULES = some.lists(
    some.fixed_dictionaries(
        {"effect": some.sampled_from(["allow", "deny", "confirm"])},
        optional={"tenants": GLOBS, "keys": GLOBS, "servers": GLOBS, "tools": GLOBS, "equals": WORDS},
    ),
    max_size=8,
)


def toml(rules) -> str:
    text = ""
    for number, rule in enumerate(rules):
        text += f'[[rules]]\nname = "{number}"\neffect = "{rule["effect"]}"\n'
        text += "".join(f"{key} = {rule[key]!r}\n" for key in ("tenants", "keys", "servers", "tools") if key in rule)
        if "equals" in rule:
            text += f'arguments = {{"/v" = {{equals = "{rule["equals"]}"}}}}\n'
    return text


def naive(rules, tenant, key, server, tool, value) -> str:
    """What docs/policy.md says, read aloud."""
    for number, rule in enumerate(rules):
        facts = {
            "tenants": [tenant],
            "keys": [key],
            "servers": [server],
            "tools": [tool, *[tool] * ("servers" in rule)],
        }
        if (
            all(
                any(fnmatchcase(fact, glob) for fact in facts[kind] for glob in rule[kind])
                for kind in facts
                if kind in rule
            )
            and rule.get("equals", value) == value
        ):
            return str(number)
    return "default"


@given(RULES, WORDS, WORDS, WORDS, WORDS, WORDS)
def test_the_first_that_fits_decides(rules, tenant, key, server, tool, value):
    policy = read_policy(toml(rules).encode(), "policy.toml")
    principal, subject = Principal(key, tenant), Subject("tools", tool, server, tool)
    for _ in range(2):  # the second time from what is remembered
        assert policy.plan(principal, subject).decide({"v": value}, "").name == naive(
            rules, tenant, key, server, tool, value
        )


@given(RULES, WORDS, WORDS, WORDS, WORDS)
def test_hidden_is_what_no_arguments_could_get_through(rules, tenant, key, server, tool):
    policy = read_policy(toml(rules).encode(), "policy.toml")
    plan = policy.plan(Principal(key, tenant), Subject("tools", tool, server, tool))
    outcomes = {naive(rules, tenant, key, server, tool, value) for value in ("a", "b", "ab", "ba", "other")}
    possible = any(name != "default" and rules[int(name)]["effect"] != "deny" for name in outcomes)
    assert not possible or plan.visible  # never hidden if some call gets through


def test_a_tool_that_some_arguments_are_allowed_for_is_listed(policy):
    rules = policy("""
        [[rules]]
        name = "conditional"
        effect = "allow"
        tools = ["x"]
        arguments = {"/v" = {equals = 1}}

        [[rules]]
        name = "never"
        effect = "deny"
        tools = ["x", "y"]

        [[rules]]
        name = "rest"
        effect = "allow"
    """)
    seen = {name: rules.plan(Principal("k", "t"), Subject("tools", name)).visible for name in ("x", "y", "z")}
    assert seen == {"x": True, "y": False, "z": True}


def test_what_is_remembered_is_bounded(policy, monkeypatch):
    monkeypatch.setattr("narthex_server.tools.policy.policy.MOST_PLANS", 10)
    rules = policy('[[rules]]\nname = "all"\neffect = "allow"')
    for number in range(100):
        assert rules.plan(Principal("k", "t"), Subject("tools", str(number))).visible
    assert len(rules._plans) <= 10


def test_plans_of_long_names_are_made_anew_each_time():
    """Callers make up URIs of megabytes."""
    policy = read_policy(b'[[rules]]\nname = "a"\neffect = "allow"\n', "policy.toml")
    uris = ("file:///a", "file:///" + "a" * LONGEST_NAME)
    short, long = ([policy.plan(Principal("ci", "acme"), Subject("resources", uri)) for _ in range(2)] for uri in uris)
    assert short[0] is short[1] and long[0] is not long[1] and long[0] == long[1] and long[0].visible
