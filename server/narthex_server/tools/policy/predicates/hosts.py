"""`hosts = ["api.example.com", "*.example.org:443", "10.0.0.0/8", "private"]`: a URL whose host is one of these.

No name is looked up: what a name's address is, and where a server is redirected to, this cannot know.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from narthex_server.addresses import through
from narthex_server.tools.policy.predicate import Judge
from narthex_server.tools.policy.verdict import Verdict

SLOW = False

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
PRIVATE = "private"
LOCAL_NAMES = ("localhost", "localdomain", "local", "internal", "lan", "home.arpa", "ip6-localhost", "ip6-loopback")
MAX_CHARACTERS = 8192

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(?:[/?#].*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@%]+)(?::(\d{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"0x[0-9a-f]*|\d+")
# UTS 46 and IDNA 2003 make different names of these.
_DEVIATING = frozenset("\u00df\u1e9e\u03c2\u200c\u200d")

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Host:
    """Where a URL leads: `name` in lower-case ASCII or, for an address, as it is written shortest."""

    name: str
    address: Address | None
    port: int


HostTest = Callable[[Host], bool]


def judge(value: object) -> Judge:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise ValueError("must be a host or a list of hosts")
    tests = [_test(one) for one in given]

    def judged(url: object, directory: str) -> Verdict:
        host = host_of(url) if isinstance(url, str) else None
        return None if host is None else any(test(host) for test in tests)

    return judged


def host_of(url: str) -> Host | None:
    """The host that every client would go to; None where clients could differ, or would not go by the URL's host."""
    if len(url) > MAX_CHARACTERS or not url.isprintable() or " " in url or "\\" in url:
        return None
    parts = _URL.fullmatch(url)
    authority = _AUTHORITY.fullmatch(parts[2]) if parts else None
    if parts is None or authority is None:
        return None  # among others with a user, which some take for the host
    default = PORTS.get(parts[1].lower())
    port = int(authority[2]) if authority[2] else default
    if default is None or port is None or not 0 < port <= 65535:
        return None
    return _host(authority[1], port)


def is_private(host: Host) -> bool:
    """Whether this is an address, or one of the usual names, of no public network."""
    if host.address is not None:
        address = _inner(host.address)
        return not address.is_global or address.is_multicast
    return "." not in host.name or any(host.name == name or host.name.endswith(f".{name}") for name in LOCAL_NAMES)


def _host(text: str, port: int) -> Host | None:
    if text.startswith("["):
        try:
            v6 = IPv6Address(text[1:-1])
        except ValueError:
            return None
        return Host(str(v6), v6, port)
    name = _ascii_name(text)
    if name is None:
        return None
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # such a name is an address to every client
        v4 = _v4(labels)
        return None if v4 is None else Host(str(v4), v4, port)
    return Host(name, None, port)


def _ascii_name(text: str) -> str | None:
    """The name in lower case and punycode, without the dot at its end."""
    if _DEVIATING & set(text):
        return None
    try:
        name = text.encode("idna").decode().lower() if not text.isascii() else text.lower()
    except UnicodeError:
        return None
    name = name.removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        return None
    return name


def _v4(labels: list[str]) -> IPv4Address | None:
    """An address in any notation that inet_aton takes, but for octal, which some read as decimal."""
    numbers = []
    for label in labels:
        if not _NUMBER.fullmatch(label) or label == "0x" or re.fullmatch(r"0\d+", label):
            return None
        numbers.append(int(label, 16 if label.startswith("0x") else 10))
    if len(numbers) > 4 or any(number > 255 for number in numbers[:-1]) or numbers[-1] >= 256 ** (5 - len(numbers)):
        return None
    head = sum(number << 8 * (3 - index) for index, number in enumerate(numbers[:-1]))
    return IPv4Address(head + numbers[-1])


def _inner(address: Address) -> Address:
    """The IPv4 address within an IPv6 one that leads to it."""
    if isinstance(address, IPv6Address):
        if inner := address.ipv4_mapped or through(address):
            return inner
        if int(address) >> 32 == 0:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _test(pattern: str) -> HostTest:
    if pattern == PRIVATE:
        return is_private
    if "/" in pattern:
        network = ip_network(pattern)
        return lambda host: (
            host.address is not None
            and any(one.version == network.version and one in network for one in (host.address, _inner(host.address)))
        )
    name, port = _split(pattern)
    if name == "*":
        return lambda host: port in (None, host.port)
    below = name.removeprefix("*.")
    known = _host(below, 1)
    if known is None or "*" in below or (below != name and known.address is not None):
        raise ValueError(f"names {pattern!r}, which is neither a host, *.host, a network nor {PRIVATE!r}")
    if below != name:
        return lambda host: host.address is None and host.name.endswith(f".{known.name}") and port in (None, host.port)
    if known.address is not None:
        alike = _inner(known.address)
        return lambda host: host.address is not None and _inner(host.address) == alike and port in (None, host.port)
    return lambda host: host.name == known.name and port in (None, host.port)


def _split(pattern: str) -> tuple[str, int | None]:
    head, colon, port = pattern.rpartition(":")
    if not colon or pattern.endswith("]"):
        return pattern, None
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ValueError(f"names {pattern!r}, whose port is none; an IPv6 address stands in brackets")
    return head, int(port)
