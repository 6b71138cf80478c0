"""What a bridge refuses to be."""

from pathlib import Path

import pytest
from narthex.settings import Address, SettingsError, flattened
from narthex_bridge.config import BridgeConfig, OauthConfig, RedisUrl, TlsConfig, from_arguments

ANYWHERE = Address("0.0.0.0", 4321)
OAUTH = OauthConfig(issuers=("https://as.example",), resource="https://tools.example/mcp")
PAIR = {"cert": Path("cert.pem"), "key": Path("key.pem")}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "bridge.example", ""])
def test_it_does_not_listen_beyond_this_machine_for_anyone(host):
    for more in ({}, {"tls": TlsConfig(**PAIR)}):
        with pytest.raises(SettingsError, match=r"api_key_file.*--allow-anyone"):
            BridgeConfig(http=Address(host, 4321), **more)


@pytest.mark.parametrize(
    "guarded",
    [
        {"api_key_file": Path("keys.toml")},
        {"oauth": OAUTH},
        {"tls": TlsConfig(**PAIR, client_ca=Path("ca.pem"))},
        {"allow_anyone": True},
    ],
)
def test_it_does_for_callers_who_show_something_or_where_that_is_meant(guarded):
    assert BridgeConfig(http=ANYWHERE, **guarded).http == ANYWHERE


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_this_machine_nothing_needs_to_be_shown(host):
    assert BridgeConfig(http=Address(host, 4321)).http.host == host


def test_all_web_pages_need_a_credential():
    with pytest.raises(SettingsError, match="every web page"):
        BridgeConfig(allowed_origins=("*",))
    assert BridgeConfig(allowed_origins=("*",), oauth=OAUTH)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"resource": ""}, "resource is missing"),
        ({"resource": "http://tools.example/mcp"}, "https://"),
        ({"resource": "https://tools.example/mcp#x"}, "not a plain URL"),
        ({"resource": "https://tools.example/mcp?x=1"}, "not a plain URL"),
        ({"resource": "/mcp"}, "not a plain URL"),
        ({"resource": 'https://tools.example/"mcp'}, "not a plain URL"),
        ({"scopes": ("mcp read",)}, "one word"),
        ({"issuers": ("as.example",)}, "not a plain URL"),
        ({"issuers": ("file:///etc/passwd",)}, "not a plain URL"),
        ({"issuers": ("https://user:secret@as.example",)}, "not a plain URL"),
        ({"jwks_url": "http://as.example/keys"}, "https://"),
        ({"issuers": ("https://a.example", "https://b.example"), "jwks_url": "https://a.example/keys"}, "one issuer"),
    ],
)
def test_oauth_that_cannot_be_trusted_is_refused(changes, told):
    with pytest.raises(SettingsError, match=told):
        OauthConfig(**{"issuers": ("https://as.example",), "resource": "https://tools.example/mcp", **changes})


def test_networks_and_redis_urls_are_checked():
    with pytest.raises(SettingsError, match="trusted_proxies"):
        BridgeConfig(trusted_proxies=("10.0.0.1/8",))
    with pytest.raises(ValueError, match="redis"):
        RedisUrl.parse("127.0.0.1:6379")


def test_limits_and_oauth_can_be_given_as_flags():
    oauth = ["--oauth-issuers", "https://as.example", "--oauth-resource", "https://tools.example/mcp"]
    limits = ["--limits-total", "100/second", "--limits-address", "off"]
    config = from_arguments([*oauth, "--oauth-scopes", "mcp", *limits, "--http", "0.0.0.0:1"])
    assert (str(config.limits.total), str(config.limits.address)) == ("100/second", "off")
    assert config.oauth.scopes == ("mcp",)


def test_the_password_of_redis_is_not_shown():
    shown = dict(flattened(BridgeConfig(redis="redis://user:hunter2@127.0.0.1:6379/0")))
    assert shown["redis"] == "redis://user:***@127.0.0.1:6379/0"
