import hashlib

import pytest
from narthex_server.audit.arguments import MAX_KEPT, Arguments
from narthex_server.audit.redaction import MAX_TEXT, REDACTED, Redaction


def members(keeping, raw, *names):
    return Arguments(keeping, Redaction(names)).members(raw)


def test_equal_arguments_have_equal_digests_however_they_are_written():
    one, other = members("digest", b'{"b": 1.0, "a": "\\u00e9"}'), members("digest", '{"a":"é","b":1}'.encode())
    assert one == other == {"digest": "sha256:" + hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()}


@pytest.mark.parametrize("raw", [b"{", b'{"a":1e999}', b'{"a":"\\ud800"}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_has_the_digest_of_its_bytes_and_is_not_kept(raw):
    assert members("full", raw) == {"digest": "sha256:" + hashlib.sha256(raw).hexdigest()}


def test_nothing_is_kept_where_nothing_is_wanted():
    assert members("off", b'{"a":1}') == {}


def test_whole_arguments_are_kept_as_far_as_they_are_not_large():
    assert members("full", b'{"password":"x"}')["arguments"] == {"password": "x"}
    assert "arguments" not in members("full", b'{"a":"%s"}' % (b"x" * MAX_KEPT))


@pytest.mark.parametrize(
    "name",
    ["token", "accessToken", "GITHUB_TOKEN", "password", "db-password", "client_secret", "Authorization", "api_key",
     "apiKey", "X-Api-Key", "private_key", "Set-Cookie", "aws_secret_access_key", "credentials", "my_pin_code"],
)  # fmt: skip
def test_values_are_hidden_by_their_names_at_any_depth(name):
    kept = members("redacted", b'{"a":[{"%s":{"deep":"x"},"city":"Oslo"}]}' % name.encode(), "*pin*")["arguments"]
    assert kept == {"a": [{name: REDACTED, "city": "Oslo"}]}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("curl -H 'Authorization: Bearer abcdef123456'", f"curl -H 'Authorization: {REDACTED}'"),
        ("postgres://me:hunter2@db/x", f"postgres://{REDACTED}@db/x"),
        ("use sk-abcdefghijklmnop1234 now", f"use {REDACTED} now"),
        ("ghp_0123456789abcdefghij", REDACTED),
        ("nx_0123456789abcdefghij-_0123456789", REDACTED),
        ("AKIAIOSFODNN7EXAMPLE", REDACTED),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", REDACTED),
        ("x -----BEGIN RSA PRIVATE KEY-----\nMII\n-----END", f"x {REDACTED}"),
        ("https://example.org/a:b@c", "https://example.org/a:b@c"),
        ("the task-force of basic research", "the task-force of basic research"),
    ],
)
def test_values_are_hidden_by_what_they_look_like(text, kept):
    assert Redaction().text(text) == kept


def test_hostile_texts_take_no_time():
    for piece in ("eyJ", "sk-", "://a:", "bearer ", "-----BEGIN ", "a.eyJ"):
        Redaction().text(piece * (MAX_TEXT // len(piece)))
    assert Redaction().text("x" * (MAX_TEXT + 1)) == f"[{MAX_TEXT + 1} characters]"
