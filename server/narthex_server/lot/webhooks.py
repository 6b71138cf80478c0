"""Which webhooks may be told, and the way there over HTTP."""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

import httpx2

from narthex_server.addresses import through
from narthex_server.errors import InvalidRequest, Violation, invalid

LONGEST_URL = 2048
SECONDS = 10.0
"""How long one try may take."""

_HOST = re.compile(r"[a-z0-9.-]+|[0-9a-f:.]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Hosts:
    """The hosts that may be told: patterns of names (`hooks.example.org`, `*.example.org`).

    They are spoken to over TLS and only at public addresses; `private` ones may be in the server's own networks. A host
    of this machine has to be named as such, and may then be spoken to in the clear.
    """

    def __init__(self, patterns: Sequence[str], *, private: bool = False) -> None:
        self._patterns = tuple(pattern.lower() for pattern in patterns)
        self._private = private

    def check(self, url: str, field: str) -> None:
        """Raises InvalidRequest for a URL that must not be told."""
        if problem := self._problem(url):
            raise invalid(Violation(field, problem))

    def fits(self, host: str, address: str) -> bool:
        """Whether an address may be the host's: else a name could lead to what only this server can reach."""
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address):
            if found.ipv4_mapped is None and (inner := through(found)) is not None:
                return self.fits(host, str(inner)) and not inner.is_loopback
            found = found.ipv4_mapped or found
        if found.is_loopback:
            return host in _LOOPBACK
        if found.is_multicast or found.is_unspecified or found.is_link_local or found.is_reserved:
            return False
        return found.is_global or self._private

    def _problem(self, url: str) -> str:
        parts = _split(url)
        if parts is None:
            return f"must be an absolute URL of at most {LONGEST_URL} characters, without a user or a fragment"
        host = parts.hostname or ""
        known = host in self._patterns if host in _LOOPBACK else any(fnmatchcase(host, one) for one in self._patterns)
        if not known:
            return "names a host that this server does not tell anything"
        if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
            return "must be an https URL"
        return ""


class HttpPost:
    """A Post that checks whom it talks to each time: the name, and the address that it has now."""

    def __init__(self, hosts: Hosts, tls: ssl.SSLContext | None = None) -> None:
        self._hosts = hosts
        self._client = httpx2.AsyncClient(
            verify=tls or ssl.create_default_context(), timeout=SECONDS, follow_redirects=False, trust_env=False,
            limits=httpx2.Limits(max_connections=32, max_keepalive_connections=0),
        )  # fmt: skip

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> str:
        try:
            self._hosts.check(url, "url")
            async with asyncio.timeout(SECONDS):
                return await self._sent(urlsplit(url), headers, body)
        except InvalidRequest:
            return "is not allowed any more"
        except TimeoutError:
            return "did not answer in time"
        except (OSError, UnicodeError):
            return "has a host that is not known"
        except httpx2.HTTPError as error:
            return f"cannot be told ({type(error).__name__})"

    async def close(self) -> None:
        await self._client.aclose()

    async def _sent(self, parts: SplitResult, headers: Mapping[str, str], body: bytes) -> str:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(self._hosts.fits(host, address) for address in addresses):
            return "has an address that is not allowed"
        address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        at = parts._replace(netloc=f"{address}:{port}")  # the address that was looked at, not what a name means later
        own = {**headers, "host": parts.netloc}
        request = self._client.build_request("POST", at.geturl(), content=body, headers=own)
        request.extensions["sni_hostname"] = host
        response = await self._client.send(request, stream=True)
        await response.aclose()  # what it says beside the status is nobody's business
        return "" if response.is_success else f"answered {response.status_code}"


def _split(url: str) -> SplitResult | None:
    """The parts of an absolute URL; None where it is none, or holds what has no place in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    fits = len(url) <= LONGEST_URL and url.isascii() and url.isprintable() and " " not in url
    if not fits or not _HOST.fullmatch(parts.hostname or "") or "@" in parts.netloc or parts.fragment or port == 0:
        return None
    return parts
