"""Which webhooks may be told, and that nothing else is."""

import socket

import pytest
from narthex_server.errors import InvalidRequest
from narthex_server.lot.webhooks import Hosts, HttpPost

HOSTS = Hosts(("hooks.example.org", "*.example.com", "localhost"))


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/a?b=c",
        "https://HOOKS.example.org:8443/",
        "https://a.b.example.com/",
        "http://localhost:1/",
        "https://localhost/",
    ],
)
def test_hosts_that_are_named_may_be_told(url: str) -> None:
    HOSTS.check(url, "webhook.url")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.org/",
        "/path",
        "http://hooks.example.org/",
        "ftp://hooks.example.org/",
        "https://example.com/",
        "https://hooks.example.org.evil.net/",
        "https://hooks.example.org@evil.net/",
        "https://evil.net/#hooks.example.org",
        "https://evil.net#hooks.example.org/",
        "https://evil.net\\.example.com/",
        "https://hooks.example.org:0/",
        "https://hooks.example.org:99999/",
        "https://hooks.example.org/ \r\nx: y",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://hooks.example.org/" + "a" * 2048,
    ],
)
def test_others_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        HOSTS.check(url, "webhook.url")
    assert [violation.field for violation in caught.value.violations] == ["webhook.url"]


def test_a_pattern_for_all_does_not_mean_this_machine() -> None:
    with pytest.raises(InvalidRequest):
        Hosts(("*",)).check("http://127.0.0.1/", "url")


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1:248:1893:25c8:1946", True, True),
        ("10.0.0.1", False, True),
        ("192.168.1.1", False, True),
        ("fd00::1", False, True),
        ("100.64.0.1", False, True),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("::ffff:10.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("fe80::1", False, False),
        ("fe80::1%1", False, False),
        ("64:ff9b::5db8:d822", True, True),
        ("64:ff9b::a00:1", False, True),
        ("64:ff9b::7f00:1", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:a9fe:a9fe::1", False, False),
        ("2002:7f00:1::1", False, False),
        ("2002:a00:1::1", False, True),
        ("2001:0:5db8:d822:0:0:5601:5601", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
    ],
)
def test_a_name_must_not_lead_into_the_servers_own_networks(address: str, public: bool, private: bool) -> None:
    assert Hosts(("h",)).fits("h", address) is public
    assert Hosts(("h",), private=True).fits("h", address) is private


def test_this_machine_is_only_what_is_called_so() -> None:
    assert HOSTS.fits("localhost", "127.0.0.1") and HOSTS.fits("::1", "::1")


async def test_a_name_that_leads_elsewhere_is_not_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    post = HttpPost(HOSTS)
    assert await post.send("https://hooks.example.org/", {}, b"{}") == "has an address that is not allowed"
    assert await post.send("https://elsewhere.net/", {}, b"{}") == "is not allowed any more"
    await post.close()


async def test_a_host_that_is_not_there_is_said_to_be_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    post = HttpPost(Hosts(("127.0.0.1",)))
    assert await post.send(f"http://127.0.0.1:{port}/", {}, b"{}") == "cannot be told (ConnectError)"
    await post.close()
