"""Which address a request comes from, through the proxies in front of the bridge."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REMEMBERED, SHORT = 4096, 128


class Addresses:
    """Believes X-Forwarded-For as far as trusted proxies wrote it."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)
        self._known = lru_cache(REMEMBERED)(self._find)

    def client(self, peer: str, forwarded: str) -> str:
        """Whom limits count: the address, of IPv6 its /64, from which one client takes as many as it likes.

        Empty for this machine, and where the peer has no address.
        """
        if not self._trusted:
            return self._known(peer, "")
        return (self._known if len(forwarded) <= SHORT else self._find)(peer, forwarded)

    def _find(self, peer: str, forwarded: str) -> str:
        address = _address(peer)
        if forwarded:
            for hop in reversed(forwarded.split(",")):
                if address is None or not self._proxy(address):
                    break
                address = _address(hop.strip()) or address  # a proxy that writes no address is as far as is known
        if address is None or address.is_loopback:
            return ""
        if isinstance(address, ipaddress.IPv6Address):
            return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"
        return str(address)

    def _proxy(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> Address | None:
    """An address, perhaps with a port; one of IPv4 in the clothes of IPv6 is one of IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
