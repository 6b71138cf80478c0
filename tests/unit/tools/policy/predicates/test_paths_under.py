"""Where a path leads: real folders, links and spellings."""

import os

import pytest
from narthex_server.tools.policy.predicates.paths_under import judge


@pytest.fixture
def data(tmp_path):
    """A root with a file, beside it what nobody should reach, and links of all kinds in it."""
    root, secret = tmp_path / "data", tmp_path / "secret"
    (root / "sub").mkdir(parents=True)
    (secret / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (secret / "b.txt").write_text("b")
    (root / "out").symlink_to(secret)
    (root / "out.txt").symlink_to(secret / "b.txt")
    (root / "dangling").symlink_to(secret / "new.txt")
    (root / "in").symlink_to(root / "sub")
    (root / "deep").symlink_to(secret / "deep")
    (root / "loop").symlink_to(root / "loop")
    (root / "chain").symlink_to(root / "out.txt")
    (tmp_path / "data-other").mkdir()
    return root


@pytest.mark.parametrize(
    "path",
    [
        ".",
        "a.txt",
        "sub",
        "sub/../a.txt",
        "in",
        "in/new/file.txt",
        "new.txt",
        "x/y/z",
        "./a.txt",
        "sub//a",
        "100%",
        "a~$1",
        "\uff52",
    ],
)
def test_what_is_inside_may_also_be_yet_to_come(data, path):
    judged = judge([str(data)])
    assert judged(str(data / path), "") is True
    assert judged(f"{data}/{path}", "") is True
    assert judged(path, str(data)) is True


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../secret/b.txt",
        "sub/../../secret/b.txt",
        "../data-other",
        "out",
        "out/b.txt",
        "out.txt",
        "dangling",
        "chain",
        "out/new",
        "x/../../secret",
        "deep",
        "/etc/passwd",
        "//etc/passwd",
        "/",
    ],
)
def test_what_leads_out_is_outside(data, path):
    judged = judge([str(data)])
    assert judged(os.path.join(str(data), path), "") is not True
    assert judged(path, str(data)) is not True


@pytest.mark.parametrize(
    "path",
    [
        "a.txt\0",
        "a\n.txt",
        "~/a.txt",
        "~root",
        "file:///etc/passwd",
        "FILE:a.txt",
        "sub\\..\\..\\secret",
        " a.txt",
        "a.txt ",
        "\u2024\u2024/secret",
        "sub\uff0f..\uff0f..",
        "a\u202etxt.exe",
        "%2e%2e/secret",
        "..%2fsecret",
        "sub/%2E%2E/%2e./secret",
        "%2fetc/passwd",
        "%252e%252e/secret",
        "%25252e%25252e/secret",
        "%252525252525252e./secret",
        "sub%5c..%5c..",
        "%c0%ae%c0%ae/secret",
        "%ef%bc%8e%ef%bc%8e/secret",
        "a.txt%00.png",
        "a.txt%0a",
        "%20a.txt",
        "a%20b",
        "%2ehidden",
        "\uff0ehidden",
        "sub/\u2024hidden",
        "%7e/a.txt",
        "%66ile:///etc/passwd",
        "$HOME/a.txt",
        "${HOME}",
        "",
        "x" * 5000,
        1,
        None,
        ["a.txt"],
        {"path": "a.txt"},
        True,
    ],
)
def test_what_servers_read_differently_cannot_be_told(data, path):
    assert judge([str(data)])(path, str(data)) is None


def test_steps_up_behind_a_link_are_inside_only_if_both_ways_of_reading_are(data):
    judged = judge([str(data)])
    assert (
        judged(str(data / "deep" / ".." / "b.txt"), "") is None
    )  # the kernel: secret/b.txt; tidied up first: data/b.txt
    assert judged(str(data / "in" / ".." / "a.txt"), "") is True


def test_links_in_a_circle_cannot_be_told(data):
    assert judge([str(data)])(str(data / "loop"), "") is None
    assert judge([str(data)])(str(data / "loop" / "x"), "") is None


def test_a_root_may_be_a_link_itself_or_a_file(data, tmp_path):
    (tmp_path / "alias").symlink_to(data)
    assert judge([str(tmp_path / "alias")])(str(data / "a.txt"), "") is True
    assert judge([str(data)])(str(tmp_path / "alias" / "a.txt"), "") is True
    assert judge(str(tmp_path / "nowhere"))(str(data / "a.txt"), "") is False


def test_one_of_several_roots_is_enough(data, tmp_path):
    judged = judge([str(data / "sub"), str(tmp_path / "secret")])
    assert judged(str(data / "out" / "b.txt"), "") is True
    assert judged(str(data / "a.txt"), "") is False


def test_a_relative_path_needs_to_know_from_where(data):
    assert judge([str(data)])("a.txt", "") is None
    assert judge({"roots": [str(data)], "relative_to": str(data / "sub")})("../a.txt", "/") is True


def test_links_of_processes_lead_elsewhere_in_each(data, monkeypatch):
    monkeypatch.chdir(data)
    judged = judge([str(data)])
    for path in (*(f"/proc/self/{link}" for link in ("cwd/a.txt", "root/etc")), "/dev/fd/3"):
        assert judged(path, "") is None


def test_what_we_may_not_look_at_cannot_be_told(data):
    (data / "sub").chmod(0)
    me = os.geteuid()
    try:
        if me == 0:  # who may look everywhere
            os.seteuid(65534)
        assert judge([str(data)])(str(data / "sub" / "x" / "y"), "") is None
    finally:
        os.seteuid(me)
        (data / "sub").chmod(0o700)


def test_hard_to_spell_names_are_the_same_file(data):
    (data / "ä").write_text("")
    assert judge([str(data)])(str(data / "a\u0308"), "") is True  # yet to be made, or the same: inside in any case


@pytest.mark.parametrize(
    "value",
    [[], ["relative"], 1, {"roots": ["/srv"], "else": 1}, {"relative_to": "/"}, {"roots": ["/a"], "relative_to": "b"}],
)
def test_settings_that_mean_nothing_are_refused(value):
    with pytest.raises(ValueError):
        judge(value)
