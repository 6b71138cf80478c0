import json

import pytest
from narthex_server.errors import Unavailable, Violation
from narthex_server.tools.tool import ToolResult
from narthex_server.tools.upstream.secrets import MOST_BYTES, MOST_KNOWN, SecretFile, Secrets
from narthex_server.tools.upstream.urls import note_url, origin


@pytest.fixture
def secrets() -> Secrets:
    made = Secrets()
    made.note('Bearer tok"en-é')
    return made


def test_a_file_is_read_at_each_use(tmp_path):
    file, secrets = tmp_path / "token", Secrets()
    for text in ("the-first", "the-second"):
        file.write_text(f"{text}\n")
        assert secrets.reveal_all({"A": SecretFile(str(file), "Bearer "), "B": "plain-text"})["A"] == f"Bearer {text}"
    assert secrets.hide("the-first the-second plain-text") == "*** *** ***"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two\nlines", b"\xff\xfe", b"a\0b", b"x" * (MOST_BYTES + 1)])
def test_a_file_without_one_line_of_text_is_refused_without_what_it_holds(tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Unavailable, match=f"secret file {file}") as caught:
        SecretFile(str(file)).read()
    assert caught.value.reason == "SECRET_UNREADABLE" and "two" not in caught.value.message


def test_secrets_are_hidden_however_often_json_wraps_them(secrets):
    said = 'no: tok"en-é'
    for ascii in (True, False):
        inner = json.dumps({"echo": said}, ensure_ascii=ascii)
        content = json.dumps([{"type": "text", "text": inner}], ensure_ascii=ascii).encode()
        hidden = secrets.hide_in_result(ToolResult(content, json.dumps({"e": said}).encode(), is_error=True))
        assert json.loads(json.loads(hidden.content)[0]["text"]) == {"echo": "no: ***"}
        assert json.loads(hidden.structured_content) == {"e": "no: ***"}


def test_what_a_tool_gives_when_it_works_is_the_callers_to_see(secrets):
    good = ToolResult(json.dumps('tok"en-é').encode())
    assert secrets.hide_in_result(good) is good


def test_errors_are_told_without_secrets(secrets):
    secrets.note("another-secret")
    error = Unavailable(
        "another-secret", metadata={"k": "another-secret"}, violations=(Violation("f", "another-secret"),)
    )
    hidden = secrets.hide_in(error)
    assert (hidden.message, str(hidden), hidden.metadata) == ("***", "***", {"k": "***"})
    assert hidden.violations == (Violation("f", "***"),)


def test_short_texts_are_words_and_long_memories_end():
    secrets = Secrets()
    for text in ("abc", "the-oldest", *(f"secret-{n:05d}" for n in range(MOST_KNOWN))):
        secrets.note(text)
    assert secrets.hide("abc the-oldest secret-00000") == "abc the-oldest ***"


def test_urls_may_hold_keys():
    secrets = Secrets()
    note_url("https://me:pass-word@h.example/mcp?key=a%2Fb-c%2Fd", secrets)
    for held in ("pass-word", "a/b-c/d", "a%2Fb-c%2Fd"):
        assert secrets.hide(f"<{held}>") == "<***>"
    plain = "https://h.example/mcp"
    note_url(plain, secrets)
    assert secrets.hide(plain) == plain


def test_the_port_of_a_scheme_is_part_of_the_origin_said_or_not():
    assert origin("https://H.example/a") == origin("https://h.example:443/b")
    assert origin("https://h.example") != origin("http://h.example") != origin("http://h.example:81")


def test_tokens_that_callers_make_up_do_not_show_what_is_our_own(secrets):
    for number in range(2 * MOST_KNOWN):
        secrets.note_brought(f"made-up-{number:06}")
    assert secrets.hide(f'tok"en-é made-up-{2 * MOST_KNOWN - 1:06}') == "*** ***"
