"""The file: what it may say, and what is said of mistakes."""

import pytest
from narthex.settings import SettingsError
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.policy.subject import Subject

READ = Subject("tools", "files__read", "files", "read", b'{"readOnlyHint": true}')
WRITE = Subject("tools", "files__write", "files", "write", b'{"readOnlyHint": "yes"}')
NATIVE = Subject("tools", "chat")


def rule(fields: str, effect: str = "allow") -> str:
    return f'[[rules]]\nname = "r"\neffect = "{effect}"\n{fields}'


@pytest.mark.parametrize(
    ("fields", "subject", "fits"),
    [
        ("", READ, True),
        ('tenants = ["acme"]', READ, True),
        ('tenants = ["ac*"]', READ, True),
        ('tenants = ["Acme"]', READ, False),
        ("tenants = []", READ, False),
        ('keys = ["c?"]', READ, True),
        ('keys = ["other"]', READ, False),
        ("authenticated = true", READ, True),
        ("authenticated = false", READ, False),
        ('servers = ["files"]', READ, True),
        ('servers = ["file"]', READ, False),
        ('servers = [""]', NATIVE, True),
        ('tools = ["files__*"]', READ, True),
        ('tools = ["read"]', READ, False),
        ('tools = ["FILES__*"]', READ, False),
        ('servers = ["files"]\ntools = ["read"]', READ, True),
        ('servers = ["*"]\ntools = ["re[a-d]d"]', READ, True),
        ('tools = ["chat"]', NATIVE, True),
        ("annotations = {readOnlyHint = true}", READ, True),
        ("annotations = {readOnlyHint = true}", WRITE, False),
        ("annotations = {readOnlyHint = true}", NATIVE, False),
        ("annotations = {readOnlyHint = true}", Subject("tools", "x", annotations=b"[1]"), False),
        ("annotations = {readOnlyHint = true}", Subject("tools", "x", annotations=b"{"), False),
        ('prompts = ["*"]', READ, False),
        ('prompts = ["*"]', Subject("prompts", "files__p", "files", "p"), True),
        ('tools = ["*"]', Subject("prompts", "files__p", "files", "p"), False),
        ('resources = ["file:///srv/*"]', Subject("resources", "file:///srv/a", "files"), True),
        ('resources = ["file:///srv/*"]', Subject("resources", "file:///etc/a", "files"), False),
        ('resources = ["file:///srv/*"]', Subject("resources", "file:///srv/../etc/a", "files"), False),
        ('resources = ["file:///srv/*"]', Subject("resources", "file:///srv/%2e%2E/etc/a", "files"), False),
        ('resources = ["file:///srv/*"]', Subject("resources", "file:///srv/%252e%252e/etc/a", "files"), False),
        ('resources = ["file:///srv/*"]', Subject("resources", "file:///srv/..%2fetc/a", "files"), False),
        ("", Subject("resources", "file:///srv/..%2fetc/a", "files"), False),
        ("", Subject("prompts", "p", "files", "p"), True),
        ("timeout = 1", Subject("prompts", "p", "files", "p"), False),
    ],
)
def test_a_rule_is_about_callers_and_entries(policy, fields, subject, fits):
    [made] = policy(rule(fields)).rules
    assert made.concerns(Principal("ci", "acme"), subject) is fits


def test_a_caller_without_a_key_is_not_authenticated(policy):
    [made] = policy(rule("authenticated = true")).rules
    assert not made.concerns(LOCAL, READ)
    assert made.concerns(Principal("local", "acme"), READ)


def test_a_server_cannot_name_a_tool_like_that_of_another(decide):
    spoof = Subject("tools", "evil__time__now", "evil", "time__now")
    assert decide(rule('tools = ["time__*"]'), {}, spoof) == "default"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules = 1", r"\[\[rules\]\]"),
        ("[[rule]]", 'unknown key "rule"'),
        ("[[rules]\n", "not TOML"),
        ("\xff", "not TOML"),
        ('[[rules]]\neffect = "allow"', "name is missing"),
        ('[[rules]]\nname = "a"', r"rules\[0\] \('a'\): effect is missing"),
        (rule("", "permit"), "allow, deny or confirm"),
        (rule('tool = ["x"]'), 'did you mean "tools"'),
        (rule("tools = 'x'"), "must be a list"),
        (rule("tools = [1]"), "must be a list"),
        (rule("annotations = {readonly = true}"), "readOnlyHint"),
        (rule("annotations = {readOnlyHint = 1}"), "true or false"),
        (rule("authenticated = 1"), "true or false"),
        (rule("rate = '5/fortnight'"), "rate is neither"),
        (rule("rate = 5"), "must be a string"),
        (rule("concurrency = -1"), "whole number"),
        (rule("timeout = 0"), "more than 0"),
        (rule("per = 'user'"), "key, tenant or all"),
        (rule("rate = '1/second'", "deny"), "needs no rate"),
        (rule("prompts = ['*']", "confirm"), "for tools alone"),
        (rule("resources = ['*']\ntimeout = 1"), "timeout is for tools alone"),
        (rule("arguments = 1"), "must be a table"),
        (rule("[rules.arguments]\na.b = {equals = 1}"), "arguments.\"a\": there is no predicate 'b'"),
        (rule("[rules.arguments]\na = {sql = ['select']}"), 'arguments."a": sql must be a table'),
        (rule("items = 'all'"), "every or any"),
        (rule("") + rule("").replace("[[rules]]", "\n[[rules]]"), "taken by a rule above"),
        ('[[rules]]\nname = "default"\neffect = "allow"', "not 'default'"),
        ('[[rules]]\nname = "a\\nb"\neffect = "allow"', "printable"),
        ("x = 1\n" + "# " + "x" * 1_100_000, "at most"),
        (rule("message = 1"), "must be a string"),
    ],
)
def test_mistakes_are_named(policy, text, said):
    with pytest.raises(SettingsError, match=said):
        policy(text)


def test_an_empty_file_allows_nothing(decide):
    assert decide("", {}) == "default"
