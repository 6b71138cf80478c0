import pytest
from narthex_bridge.gate.addresses import Addresses

PROXIES = ("10.0.0.0/8", "127.0.0.1", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", "", "198.51.100.1"),
        ("198.51.100.1", "203.0.113.5", "198.51.100.1"),  # not a proxy of ours: it may write what it likes
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "203.0.113.5, 10.9.9.9", "203.0.113.5"),
        ("10.0.0.1", "8.8.8.8, 203.0.113.5, 10.9.9.9", "203.0.113.5"),  # the client wrote the first one
        ("10.0.0.1", "10.1.1.1", "10.1.1.1"),  # a client inside
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5, nonsense", "203.0.113.5"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("127.0.0.1", "203.0.113.5:4711", "203.0.113.5"),
        ("127.0.0.1", "[2001:db8:1:2:3::4]:80", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("fd00::1", "2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("127.0.0.1", "", ""),
        ("::1", "", ""),
        ("", "203.0.113.5", ""),
    ],
)
def test_the_client_is_the_first_that_no_trusted_proxy_wrote(peer, forwarded, client):
    assert Addresses(PROXIES).client(peer, forwarded) == client


def test_without_proxies_nothing_is_believed():
    assert Addresses(()).client("127.0.0.1", "203.0.113.5") == ""
