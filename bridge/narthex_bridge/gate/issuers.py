"""Authorization servers: where their keys are, and the keys."""

import asyncio
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import jwt
import orjson

from narthex_bridge.config.oauth import OauthConfig, url_problem

logger = logging.getLogger(__name__)

FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
ALGORITHMS = frozenset(["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
LARGEST, READ_BYTES = 1024 * 1024, 64 * 1024
RETRY_S = 5.0
STALE_S = 3600.0
"""Keys that cannot be fetched again are used for so long: an issuer may be down for a while, but not for ever."""

Jwk = Mapping[str, Any]


class UnknownKey(Exception):
    """The issuer has no such key."""


class IssuerUnreachable(Exception):
    """The issuer's keys cannot be had."""


class Issuer:
    """The public keys of one authorization server, fetched when they are needed, one fetch at a time.

    What its metadata or keys are is read from the issuer alone, never from a token.
    """

    def __init__(self, url: str, config: OauthConfig) -> None:
        self.url = url
        self._jwks_url = config.jwks_url
        self._config = config
        self._keys: tuple[Jwk, ...] | None = None
        self._made: dict[tuple[str | None, str], jwt.PyJWK] = {}
        self._fetched = self._tried = -float("inf")
        self._refreshing: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key of this id (None: the only one that fits) for an asymmetric algorithm.

        Raises UnknownKey, and IssuerUnreachable where the keys that are known cannot tell.
        """
        if algorithm not in ALGORITHMS:
            raise UnknownKey
        age = time.monotonic() - self._fetched
        key = self._find(kid, algorithm)
        if key is not None and age <= self._config.jwks_lifetime_s:
            return key
        pause = RETRY_S if self._keys is None or self._tried > self._fetched else self._config.jwks_pause_s
        if time.monotonic() - self._tried >= pause:
            refreshing = self._refresh()
            if key is not None and age <= STALE_S:
                return key  # nobody waits for a fetch that will most likely find the same key
            await asyncio.shield(refreshing)
            key = self._find(kid, algorithm)
        elif self._refreshing is not None and key is None:
            await asyncio.shield(self._refreshing)
            key = self._find(kid, algorithm)
        if key is not None and time.monotonic() - self._fetched <= STALE_S:
            return key
        if key is not None or self._tried > self._fetched:
            raise IssuerUnreachable
        raise UnknownKey

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    def _find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        if (made := self._made.get((kid, algorithm))) is not None:
            return made
        fitting = [key for key in self._keys or () if _fits(key, kid, algorithm)]
        if len(fitting) != 1:
            return None
        try:
            made = self._made[kid, algorithm] = jwt.PyJWK(dict(fitting[0]), algorithm)
        except (jwt.PyJWTError, ValueError, TypeError):
            return None
        return made

    def _refresh(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._tried = time.monotonic()
            self._refreshing = asyncio.create_task(self._fetch())
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    def _refreshed(self, _: asyncio.Task[None]) -> None:
        self._refreshing = None

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                where = self._jwks_url or await self._discover()
                document = await _get(where, self._config.timeout_s)
        except (_Unusable, TimeoutError) as error:
            logger.warning("the keys of %s cannot be had: %s", self.url, error or "no answer in time")
            return
        keys = document.get("keys")
        if not isinstance(keys, list):
            logger.warning("the keys of %s cannot be had: %s holds no keys", self.url, where)
            return
        self._keys = tuple(key for key in keys if isinstance(key, dict))
        self._made.clear()
        self._fetched = self._tried = time.monotonic()

    async def _discover(self) -> str:
        """The address of the keys, as the issuer's metadata say."""
        problem = "no metadata"
        for where in metadata_urls(self.url):
            try:
                document = await _get(where, self._config.timeout_s)
            except _Unusable as error:
                problem = str(error)
                continue
            jwks = document.get("jwks_uri")
            if document.get("issuer") != self.url:
                problem = f"{where} is the metadata of another issuer"
            elif not isinstance(jwks, str) or url_problem(jwks.partition("?")[0]):
                problem = f"{where} names no usable jwks_uri"
            else:
                return jwks
        raise _Unusable(problem)


def metadata_urls(issuer: str) -> Iterable[str]:
    """Where an issuer's metadata may be: RFC 8414, and OpenID Connect Discovery in both of its forms."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}/.well-known/openid-configuration{path}"
    if path:
        yield f"{origin}{path}/.well-known/openid-configuration"


def _fits(key: Jwk, kid: str | None, algorithm: str) -> bool:
    return (
        (kid is None or key.get("kid") == kid)
        and key.get("kty") == FAMILIES[algorithm[:2]]
        and key.get("alg", algorithm) == algorithm
        and key.get("use", "sig") == "sig"
        and "d" not in key  # a private key: whoever publishes it has no key
    )


class _Unusable(Exception):
    """An authorization server gave no document; the text says which and why, for the log."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys come from where the settings or the metadata say, and from nowhere else."""

    def redirect_request(self, *_: object) -> None:
        return None


async def _get(url: str, timeout_s: float) -> Mapping[str, Any]:
    """A JSON object over HTTP, without blocking the loop. Raises _Unusable."""
    return await asyncio.to_thread(_read, url, timeout_s)


def _read(url: str, timeout_s: float) -> Mapping[str, Any]:
    request = urllib.request.Request(url, headers={"accept": "application/json"})
    latest = time.monotonic() + timeout_s
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s) as answer:
            body = b""
            while len(body) <= LARGEST and (piece := answer.read1(READ_BYTES)):
                body += piece
                if time.monotonic() > latest:  # each piece comes in time, but they never end
                    raise _Unusable(f"{url} takes longer than {timeout_s:g} s")
    except urllib.error.HTTPError as error:
        error.close()
        raise _Unusable(f"{url} answers {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Unusable(f"{url} cannot be read: {type(error).__name__}") from None
    if len(body) > LARGEST:
        raise _Unusable(f"{url} is larger than {LARGEST} bytes")
    try:
        document = orjson.loads(body)
    except ValueError:
        raise _Unusable(f"{url} is not JSON") from None
    if not isinstance(document, dict):
        raise _Unusable(f"{url} is not a JSON object")
    return document
