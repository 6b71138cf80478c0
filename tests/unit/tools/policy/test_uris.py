import pytest
from narthex_server.tools.policy.subject import Subject
from narthex_server.tools.policy.uris import is_plain


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/data/a.txt",
        "guide:start",
        "demo://a/b?c=d#e",
        "demo://{name}/{+path}{?q}",
        "urn:example:a.b..c",
        "demo://a/.../b",
        "demo://a/100%",
        "demo://a/.hidden",
        "demo://a/\u00e4%20b",
    ],
)
def test_uris_that_stay_where_they_seem_to_be(uri):
    assert is_plain(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/data/../a",
        "file:///srv/./a",
        "guide:../a",
        "guide:..",
        "..",
        "demo://a/..;x=1/b",
        "demo://a?path=../b",
        "demo://a?x=1&..",
        "demo://a#../b",
        "demo://a/%2e%2e/b",
        "demo://a/%252e./b",
        "demo://a%2f..%2fb",
        "demo://a/%252525252e/b",
        "demo://a\\..\\b",
        "demo://a%5c..%5cb",
        "demo://a/.. /b",
        "demo://a/b%00",
        "demo://a/b\n",
        "demo://a/\u202eb",
    ],
)
def test_uris_that_lead_upwards_or_are_read_in_two_ways(uri):
    assert not is_plain(uri)


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        ("SECRET:a", "secret:*"),
        ("%73ecret:a", "secret:*"),
        ("s%2565cret:a", "secret:*"),
        ("file:///srv//secret/a", "file:///srv/secret/*"),
        ("file:////srv/secret/a", "file:///srv/secret/*"),
        ("file:///srv/secre%74/a", "file:///srv/secret/*"),
        ("https://Example.COM/a", "https://example.com/*"),
        ("note:a?x=1", "note:a"),
        ("note:a#top", "note:a"),
        ("note:a?x=1", "note:a[?]*"),
    ],
)
def test_a_uri_is_denied_however_its_server_reads_it(asked, pattern, decide):
    rules = f"""
        [[rules]]
        name = "no"
        effect = "deny"
        resources = ["{pattern}"]
        [[rules]]
        name = "yes"
        effect = "allow"
    """
    assert decide(rules, {}, Subject("resources", asked, "s")) == "no"
    assert decide(rules, {}, Subject("resources", "other:a", "s")) == "yes"
