"""Access tokens of our own, by OAuth 2.1's client credentials."""

import asyncio
import base64
import logging
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx2

from narthex_server.errors import Unavailable
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.upstream.auth import ClientCredentials
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.web.discovery import canonical, token_endpoint, trusted
from narthex_server.tools.upstream.web.reading import read_json

EARLY = 30.0
"""Seconds before its end from which on a token is not used; a tenth of its life where that is less."""

LONGEST = 24 * 3600.0
"""Seconds after which a token is fetched again, whatever was said of its life."""

_ERROR = re.compile(r"[a-z_]{1,64}")
_TOKEN = re.compile(r"[!-~]{1,16384}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    good_until: float  # on the event loop's clock


class TokenSource:
    """Tokens for the resource at `url`; cached, and fetched by one task at a time."""

    def __init__(
        self, auth: ClientCredentials, url: str, client: httpx2.AsyncClient, secrets: Secrets, locks: Locks = UNMETERED
    ) -> None:
        """`client` speaks to authorization servers, and sends nothing of its own."""
        self._auth = auth
        self._resource = auth.resource or canonical(url)
        self._client = client
        self._secrets = secrets
        self._token: _Token | None = None
        self._endpoint = auth.token_url
        self._fetching = locks.async_mutex("upstream_token")

    async def token(self, but: str = "") -> str:
        """A token that is good for a while, another one than `but`; raises Unavailable with what went wrong."""
        async with self._fetching:
            now = asyncio.get_running_loop().time()
            if self._token is None or self._token.good_until <= now or self._token.text == but:
                self._token = None
                self._token = await self._fetch(now)
            return self._token.text

    async def _fetch(self, now: float) -> _Token:
        try:
            if self._endpoint is None:
                self._endpoint = await token_endpoint(self._client, canonical(self._resource), self._auth.issuer)
            if not trusted(self._endpoint):
                raise Unavailable("the token endpoint must have https")
            secret = self._secrets.reveal(self._auth.client_secret)
            form, headers = self._request(secret)
            async with self._client.stream("POST", self._endpoint, data=form, headers=headers) as response:
                return self._read(response.status_code, await read_json(response) or {}, now)
        except httpx2.HTTPError as error:
            raise Unavailable(f"no token could be had: {type(error).__name__}", reason="TOKEN_UNAVAILABLE") from None

    def _request(self, secret: str) -> tuple[dict[str, str], dict[str, str]]:
        form = {"grant_type": "client_credentials", "resource": self._resource}
        headers = {"Accept": "application/json"}
        if self._auth.scope:
            form["scope"] = self._auth.scope
        if self._auth.method == "post":
            return {**form, "client_id": self._auth.client_id, "client_secret": secret}, headers
        pair = base64.b64encode(f"{quote(self._auth.client_id, safe='')}:{quote(secret, safe='')}".encode()).decode()
        self._secrets.note(pair)
        return form, {**headers, "Authorization": f"Basic {pair}"}

    def _read(self, status: int, answer: dict[str, Any], now: float) -> _Token:
        if status != 200:
            error = answer.get("error")  # their words may hold what we sent; a known form of code does not
            code = f" {error}" if isinstance(error, str) and _ERROR.fullmatch(error) else ""
            raise Unavailable(f"the token endpoint answered HTTP {status}{code}", reason="TOKEN_UNAVAILABLE")
        text, kind, lives = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
        if not isinstance(text, str) or not _TOKEN.fullmatch(text) or str(kind).lower() != "bearer":
            raise Unavailable("the token endpoint gave no bearer token", reason="TOKEN_UNAVAILABLE")
        self._secrets.note(text)
        life = LONGEST
        if isinstance(lives, int | float) and not isinstance(lives, bool) and lives >= 0:
            life = min(lives, LONGEST)
        _log.debug("a token for %g s was fetched", life)
        return _Token(text, now + life - min(EARLY, life / 10))
