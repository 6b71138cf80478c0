"""Where a token for an upstream is to be had: RFC 9728 for whose tokens it takes, RFC 8414 for where they are given."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2

from narthex_server.errors import Unavailable
from narthex_server.tools.upstream.web.reading import read_json

_RESOURCE_METADATA = re.compile(r'\bresource_metadata\s*=\s*"([^"\s]{1,2000})"', re.IGNORECASE)


def canonical(url: str) -> str:
    """An upstream's URL as the resource that tokens are asked for: without what may hold a key."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def trusted(url: str) -> bool:
    """Whether a secret may be sent there: https, or this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and _loopback(parts.hostname)))


async def token_endpoint(client: httpx2.AsyncClient, resource: str, issuer: str | None) -> str:
    """The endpoint of `issuer`, or of the first authorization server that the resource names.

    Raises:
        Unavailable: nobody says where it is, or what is said contradicts itself.
        httpx2.HTTPError: there is no connection.
    """
    if issuer is None:
        issuer = await _issuer_of(client, resource)
    for url in _well_known_of_issuer(issuer):
        found = await _get(client, url)
        if found is None or str(found.get("issuer", "")).rstrip("/") != issuer.rstrip("/"):
            continue
        endpoint = found.get("token_endpoint")
        if isinstance(endpoint, str) and trusted(endpoint):
            return endpoint
        raise Unavailable("the authorization server names no token endpoint with https")
    raise Unavailable("the authorization server has no metadata; give auth.token_url")


async def _issuer_of(client: httpx2.AsyncClient, resource: str) -> str:
    places = [named] if (named := await _named(client, resource)) else []
    for url in (*places, *_well_known_of_resource(resource)):
        found = await _get(client, url)
        if found is None:
            continue
        match found:
            case {"resource": str(stated), "authorization_servers": [str(issuer), *_]}:
                if not _covers(stated, resource):
                    raise Unavailable("the upstream's OAuth metadata are about another resource")
                if trusted(issuer):
                    return issuer
        raise Unavailable("the upstream's OAuth metadata name no authorization server with https")
    raise Unavailable("the upstream has no OAuth metadata; give auth.token_url or auth.issuer")


async def _named(client: httpx2.AsyncClient, resource: str) -> str:
    """The metadata's URL as the resource itself gives it to a request without a token."""
    async with client.stream("GET", resource, headers={"Accept": "application/json, text/event-stream"}) as response:
        if response.status_code != 401:
            return ""
        found = _RESOURCE_METADATA.search(response.headers.get("www-authenticate", ""))
        return found[1] if found and trusted(found[1]) else ""


async def _get(client: httpx2.AsyncClient, url: str) -> dict[str, Any] | None:
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
        return await read_json(response) if response.status_code == 200 else None


def _well_known_of_resource(resource: str) -> Iterator[str]:
    parts = urlsplit(resource)
    for path in dict.fromkeys((parts.path.rstrip("/"), "")):
        yield urlunsplit((parts.scheme, parts.netloc, f"/.well-known/oauth-protected-resource{path}", "", ""))


def _well_known_of_issuer(issuer: str) -> Iterator[str]:
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    for place in (
        f"/.well-known/oauth-authorization-server{path}",
        f"/.well-known/openid-configuration{path}",
        f"{path}/.well-known/openid-configuration",
    ):
        yield urlunsplit((parts.scheme, parts.netloc, place, "", ""))


def _covers(stated: str, resource: str) -> bool:
    """Whether the one is the other, or above it on the same origin."""
    ours, theirs = urlsplit(resource), urlsplit(stated)
    if (ours.scheme, ours.netloc.lower()) != (theirs.scheme, theirs.netloc.lower()):
        return False
    path = theirs.path.rstrip("/")
    return ours.path.rstrip("/") == path or ours.path.startswith(f"{path}/")


def _loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
