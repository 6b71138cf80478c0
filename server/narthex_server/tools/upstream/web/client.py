"""HTTP clients for upstreams: what is trusted, what is sent with every request, and who shows which token."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.upstream.auth import Auth, ClientCredentials, Passthrough
from narthex_server.tools.upstream.grant import GRANT
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.source import Http, OpenApi
from narthex_server.tools.upstream.tls import Tls
from narthex_server.tools.upstream.urls import note_url
from narthex_server.tools.upstream.web.client_credentials import TokenSource

CONNECT_TIMEOUT = 10.0
TOKEN_TIMEOUT = 15.0
_OTHER_ERROR = re.compile(r'\berror\s*=\s*"?(?!invalid_token)\w', re.IGNORECASE)


@asynccontextmanager
async def opened(
    source: Http | OpenApi, url: str, secrets: Secrets, read_timeout: float, locks: Locks = UNMETERED
) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client for the upstream at `url`; files are read again for each one.

    Raises Unavailable for a secret that cannot be read, and OSError for a certificate.
    """
    note_url(url, secrets)
    headers = secrets.reveal_all(source.headers)
    limits = httpx2.Limits(max_connections=256, max_keepalive_connections=32)
    timeout = httpx2.Timeout(CONNECT_TIMEOUT, read=read_timeout)
    async with (
        _tokens(source.auth, url, source.tls, secrets, locks) as auth,
        httpx2.AsyncClient(
            headers=headers,
            auth=auth,
            verify=source.tls.context(),
            timeout=timeout,
            limits=limits,
            follow_redirects=False,
            cookies=_no_cookies() if _for_many(source) else None,
            event_hooks={"request": [_naming(source.tls)]},
        ) as client,
    ):
        yield client


def _for_many(source: Http | OpenApi) -> bool:
    """Whether an answer may be about its own caller: a cookie of one would go with the requests of another."""
    return isinstance(source, OpenApi) or isinstance(source.auth, Passthrough)


def _no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


@asynccontextmanager
async def _tokens(
    auth: Auth | None, url: str, tls: Tls, secrets: Secrets, locks: Locks
) -> AsyncGenerator[httpx2.Auth | None]:
    match auth:
        case None:
            yield None
        case Passthrough():
            yield _Passing()
        case ClientCredentials():
            async with httpx2.AsyncClient(
                verify=Tls(tls.ca, tls.cert, tls.key, tls.verify).context(),
                timeout=TOKEN_TIMEOUT,
                follow_redirects=False,
            ) as client:
                yield _Showing(TokenSource(auth, url, client, secrets, locks))


class _Showing(httpx2.Auth):
    """Shows a token of ours, and once another one to a server that does not take it."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        token = await self._source.token()
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401 and not _OTHER_ERROR.search(response.headers.get("www-authenticate", "")):
            token = await self._source.token(but=token)
            request.headers["Authorization"] = f"Bearer {token}"
            yield request


class _Passing(httpx2.Auth):
    """Shows the token of the caller whose call the request is; requests of our own show none."""

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        grant = GRANT.get()
        if grant is not None:
            request.headers["Authorization"] = f"Bearer {grant.token}"
        response = yield request
        if grant is not None and response.status_code == 401:
            grant.refused = True


def _naming(tls: Tls) -> Callable[[httpx2.Request], Awaitable[None]]:
    async def name(request: httpx2.Request) -> None:
        if tls.server_name is not None:
            request.extensions["sni_hostname"] = tls.server_name

    return name
