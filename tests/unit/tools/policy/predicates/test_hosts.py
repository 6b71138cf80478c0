"""Where a URL leads, whatever it looks like."""

import pytest
from narthex_server.tools.policy.predicates.hosts import host_of, judge


@pytest.mark.parametrize(
    ("pattern", "url", "fits"),
    [
        ("example.com", "https://example.com/a?b#c", True),
        ("example.com", "HTTPS://EXAMPLE.COM.:8443", True),
        ("example.com", "https://www.example.com", False),
        ("example.com", "https://example.com.evil.net", False),
        ("example.com", "https://notexample.com", False),
        ("example.com", "http://evil.net/#@example.com", False),
        ("example.com", "http://evil.net/?example.com", False),
        ("*.example.com", "https://a.b.example.com", True),
        ("*.example.com", "https://example.com", False),
        ("*.example.com", "https://evilexample.com", False),
        ("example.com:443", "wss://example.com", True),
        ("example.com:443", "http://example.com", False),
        ("*:8080", "http://anything.net:8080", True),
        ("*", "http://anything.net", True),
        ("m\u00fcnchen.de", "https://xn--mnchen-3ya.de", True),
        ("xn--mnchen-3ya.de", "https://M\u00dcNCHEN.de", True),
        ("example.com", "https://\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45\u3002\uff43\uff4f\uff4d", True),
        ("example.com", "https://ex\u0430mple.com", False),  # a Cyrillic letter
        ("127.0.0.1", "http://2130706433/", True),
        ("127.0.0.1", "http://0x7f.1/", True),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/", True),
        ("[::1]", "http://[0:0:0:0:0:0:0:1]:80/", True),
        ("[::1]:81", "http://[::1]/", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://[::ffff:10.1.2.3]", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("fd00::/8", "http://[fd00::1]", True),
    ],
)
def test_patterns(pattern, url, fits):
    assert judge([pattern])(url, "") is fits


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "http://LOCALHOST.",
        "http://a.localhost:1",
        "http://localhost.localdomain",
        "http://printer.local",
        "http://metadata.google.internal",
        "http://intranet",
        "http://127.1",
        "http://0",
        "http://0.0.0.0",
        "http://[::]",
        "http://[::1]",
        "http://169.254.169.254/latest",
        "http://[fe80::1]",
        "http://[fd12::1]",
        "http://10.0.0.1",
        "http://172.16.0.1",
        "http://192.168.1.1",
        "http://100.64.0.1",
        "http://224.0.0.1",
        "http://3232235777",
        "http://0xc0a80101",
        "http://[::ffff:a00:1]",
        "http://[64:ff9b::a00:1]",
        "http://[2002:a00:1::]",
        "http://[::127.0.0.1]",
        "http://\uff11\uff12\uff17.0.0.1",
        "http://\u2460\u2461\u2466.0.0.1",
    ],
)
def test_private_addresses_in_all_their_forms(url):
    assert judge("private")(url, "") is True


@pytest.mark.parametrize(
    "url", ["http://example.com", "http://8.8.8.8", "http://[2001:4860:4860::8888]", "http://134744072"]
)
def test_public_ones_are_not_private(url):
    assert judge("private")(url, "") is False


@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "//example.com",
        "http:example.com",
        "http:/example.com",
        "http:///example.com",
        "http://",
        "http://:80",
        "http://user@example.com",
        "http://example.com@evil.net",
        "http://example.com:80@evil.net",
        "http://example.com%40evil.net",
        "http://example.com\\@evil.net",
        "http://evil.net\\.example.com",
        "http://exa mple.com",
        "http://example.com\n.evil.net",
        "http://example.com\0.evil.net",
        "http://exam\u200bple.com",
        " http://example.com",
        "http://example.com/\t",
        "file:///etc/passwd",
        "ftp://example.com",
        "gopher://example.com",
        "javascript:alert(1)",
        "jar:http://example.com!/",
        "http://0177.0.0.1",
        "http://010.0.0.1",
        "http://1.2.3.4.5",
        "http://256.1.1.1",
        "http://0x",
        "http://1.2.3.0x",
        "http://[::1",
        "http://[fe80::1%25eth0]",
        "http://[v1.x]",
        "http://::1",
        "http://a..b",
        "http://-a.com",
        "http://fa\u00df.de",
        "http://a\u200db.com",
        "http://example.com:0",
        "http://example.com:65536",
        "http://example.com:8o",
        "http://example.com:-1",
        "http://example.com:80:80",
        "http://%65xample.com",
        "http://example.com" + "/a" * 5000,
        "http://" + "a" * 300 + ".com",
        7,
        None,
        ["http://example.com"],
        {"url": "http://example.com"},
    ],
)
def test_urls_that_clients_read_differently_cannot_be_told(url):
    assert judge(["*", "private"])(url, "") is None


def test_ports_are_those_of_the_scheme_where_none_is_written():
    assert [host_of(url).port for url in ("http://a.b", "https://a.b", "ws://a.b", "wss://a.b:1", "http://a.b:")] == [
        80,
        443,
        80,
        1,
        80,
    ]


@pytest.mark.parametrize(
    "value", [[], 1, ["*.1.2.3.4"], ["a*b.com"], ["::1"], ["a.com:x"], ["10.0.0.1/8"], ["http://a.com"], [""]]
)
def test_settings_that_mean_nothing_are_refused(value):
    with pytest.raises(ValueError):
        judge(value)
