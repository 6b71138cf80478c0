from narthex.keys import KeyRing


def test_a_new_key_says_what_it_is_for(narthex, tmp_path):
    file = tmp_path / "keys.toml"
    flags = ["--tools", "time__*", "--tools", "chat", "--rate", "100/minute", "--expires", "2100-01-31"]
    made = narthex("keys", "new", "--name", "ci", "--file", str(file), *flags)
    assert made.returncode == 0, made.stderr
    key = KeyRing.from_file(file).principal(made.stdout.strip())
    assert key.tools.globs == ("time__*", "chat")
    assert not key.admin
    assert (str(key.rate), key.expires.isoformat()) == ("100/minute", "2100-01-31T00:00:00+00:00")


def test_an_admin_key_is_made_on_request(narthex, tmp_path):
    file = tmp_path / "keys.toml"
    made = narthex("keys", "new", "--name", "chief", "--admin", "--file", str(file))
    assert KeyRing.from_file(file).principal(made.stdout.strip()).admin


def test_what_cannot_be_meant_is_told_and_makes_no_key(narthex, tmp_path):
    file = tmp_path / "keys.toml"
    for flag, value, told in (
        ("--rate", "often", "100/minute"), ("--expires", "soon", "30d"), ("--expires", "2020-01-01", "past"),
        ("--tools", "", "time__*"), ("--name", "", "empty"),
    ):  # fmt: skip
        failed = narthex("keys", "new", "--name", "ci", "--file", str(file), flag, value)
        assert failed.returncode == 2
        assert flag in failed.stderr and told in failed.stderr and not failed.stdout
    assert not file.exists()
