"""Where addresses lead."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")


def through(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which a gateway would lead: of NAT64 (RFC 6052), 6to4 and Teredo; None for all others."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or (address.teredo[1] if address.teredo else None)
