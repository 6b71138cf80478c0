import stat
from datetime import UTC, datetime, timedelta

import pytest
from narthex.keys import Key, KeyRing, append_key, digest, expiry, new_key
from narthex.rates import Rate
from narthex.scopes import ToolScope
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
        (f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\ntools = "time__*"', "tools must be a list"),
        (f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\ntools = {["t"] * 65}', "tools holds more than 64"),
        (f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\nrate = "100/fortnight"', "rate is neither off nor"),
        (f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\nrate = 100', "rate must be a string"),
        (f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\nexpires = 2030-01-31T12:00:00', "needs a time zone"),
        (f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\nexpires = "30d"', "expires must be a date or a time"),
        (f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\nexpires = 30', "expires must be a date or a time"),
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


def test_what_a_key_is_for_survives_the_file(tmp_path):
    until = datetime(2100, 1, 31, 12, tzinfo=UTC)
    scope = ToolScope(("time__*", "chat"))
    secret, key = new_key("ci", tools=scope, rate=Rate.parse("100/minute"), expires=until)
    append_key(tmp_path / "keys.toml", key)
    found = KeyRing.from_file(tmp_path / "keys.toml").principal(secret)
    assert found == key
    assert (found.tools, str(found.rate), found.expires) == (scope, "100/minute", until)


def test_no_tools_is_not_all_tools(tmp_path):
    secret, key = new_key("ci", tools=ToolScope(()))
    append_key(tmp_path / "keys.toml", key)
    found = KeyRing.from_file(tmp_path / "keys.toml").principal(secret)
    assert not found.tools.allows("anything")
    assert Key("ci", digest("x")).tools.allows("anything")


def test_a_key_is_worth_nothing_once_it_has_expired():
    now = datetime.now(UTC)
    for ahead, good in ((timedelta(hours=1), True), (timedelta(0), False), (timedelta(days=-400), False)):
        secret, key = new_key("ci", expires=now + ahead)
        ring = KeyRing([key])
        assert (ring.principal(secret) == key) is good
        assert ring.expired(secret) is not good
        assert not ring.expired("nx_another")


@pytest.mark.parametrize(
    "written", ["2100-01-31", "2100-01-31T00:00:00Z", '"2100-01-31T01:00:00+01:00"', '"2100-01-31"']
)
def test_a_day_begins_in_utc(tmp_path, written):
    (tmp_path / "keys.toml").write_text(f'[[keys]]\nname = "a"\nhash = "{digest("x")}"\nexpires = {written}')
    assert KeyRing.from_file(tmp_path / "keys.toml").principal("x").expires == datetime(2100, 1, 31, tzinfo=UTC)


def test_an_expiry_can_be_so_many_days_or_hours_ahead():
    for text, ahead in (("30d", timedelta(days=30)), ("12h", timedelta(hours=12))):
        assert abs(expiry(text) - datetime.now(UTC) - ahead) < timedelta(seconds=5)
    for wrong in ("", "d", "0d", "30", "tomorrow", "2030-01-31T12:00:00"):
        with pytest.raises(ValueError, match=r"is neither|zone"):
            expiry(wrong)


def test_a_key_is_found_by_its_name_until_it_expires():
    past = datetime(2020, 1, 1, tzinfo=UTC)
    ring = KeyRing([Key(name, digest("y"), expires=past) for name in ("ci", "old")] + [Key("ci", digest("x"))])
    assert ring.named("ci").hash == digest("x")
    assert ring.named("old") is None and ring.named("nobody") is None


def test_a_scope_is_within_another_that_has_its_patterns():
    few, more = ToolScope(("a__*",)), ToolScope(("a__*", "b"))
    assert few.within(more) and few.within(few) and more.within(ToolScope()) and ToolScope(()).within(few)
    assert not more.within(few) and not ToolScope().within(more)
