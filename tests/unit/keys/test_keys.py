import stat

import pytest
from narthex.keys import KeyRing, append_key, digest, new_key
from narthex.settings import SettingsError


def test_a_key_is_known_by_its_secret_alone(tmp_path):
    file = tmp_path / "keys.toml"
    secret, key = new_key("ci", "acme")
    append_key(file, key)
    append_key(file, new_key("other")[1])
    found = KeyRing.from_file(file).principal(secret)
    assert found == key
    assert found.tenant == "acme"
    assert not found.delegate


@pytest.mark.parametrize("wrong", ["", "nx_", "x" * 1000, "\N{SNOWMAN}"])
def test_a_wrong_secret_is_nobody(wrong):
    assert KeyRing([new_key("ci")[1]]).principal(wrong) is None


def test_the_hash_is_no_secret():
    key = new_key("ci")[1]
    assert KeyRing([key]).principal(key.hash) is None


def test_a_delegate_can_be_added():
    ring = KeyRing([]).with_delegate("token")
    assert ring.principal("token").delegate
    assert ring.principal("other") is None


def test_a_new_key_file_is_its_owners_alone(tmp_path):
    append_key(tmp_path / "keys.toml", new_key("ci")[1])
    assert stat.S_IMODE((tmp_path / "keys.toml").stat().st_mode) == 0o600


def test_a_name_is_given_once(tmp_path):
    append_key(tmp_path / "keys.toml", new_key("ci")[1])
    with pytest.raises(SettingsError, match="exists"):
        append_key(tmp_path / "keys.toml", new_key("ci")[1])


def test_names_with_quotes_survive_the_file(tmp_path):
    secret, key = new_key('a "quoted" \N{SNOWMAN}\\ name')
    append_key(tmp_path / "keys.toml", key)
    assert KeyRing.from_file(tmp_path / "keys.toml").principal(secret) == key


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f'[[keys]]\nname = "a"\nhsah = "{digest("x")}"', 'did you mean "hash"?'),
        ('[[keys]]\nname = "a"', "hash is missing"),
        (f'[[keys]]\nhash = "{digest("x")}"', "name is missing"),
        ('[[keys]]\nname = "a"\nhash = "sha256:00"', "hash is not"),
        (f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\ndelegate = "yes"', "delegate must be a boolean"),
        ("[keys]\n", "double brackets"),
        ("[[key]]\n", "holds"),
        ("[[keys", "not TOML"),
    ],
)
def test_a_broken_key_file_is_told(tmp_path, text, told):
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        KeyRing.from_file(tmp_path / "keys.toml")
    assert told in str(caught.value)
