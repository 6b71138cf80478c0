"""The names under which the bridge may be called: an attacker's name that was rebound to this machine is not one."""

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from narthex_bridge.config.loopback import is_loopback
from narthex_bridge.http.refusal import Refusal, Refused

REMEMBERED = 256
"""Clients use few names, again and again; to take one apart costs more than everything else of a check."""


class Hosts:
    """Loopback names and those that are allowed; all, on a public address without a list."""

    def __init__(self, bound: str, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(host.lower() for host in allowed)
        # Behind a public address any name may lead here; on loopback only a rebound name can be another one.
        self._checked = is_loopback(bound) or bool(self._allowed)
        self._known = lru_cache(REMEMBERED)(self._find)

    def check(self, host: str) -> None:
        """Raises Refused for the Host header of a foreign name."""
        if self._checked and not self._known(host):
            raise Refused("host", Refusal(403, "This Host is not allowed here; see allowed_hosts."))

    def _find(self, host: str) -> bool:
        name = hostname(f"//{host}")
        return is_loopback(name) or name in self._allowed or host.lower() in self._allowed


def hostname(url: str) -> str:
    """The host of a URL; empty for what is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
