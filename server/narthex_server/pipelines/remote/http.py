"""Remote engines over HTTP."""

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from narthex_server.pipelines.remote.connection import Answer
from narthex_server.pipelines.remote.refusals import Refusals

KEPT_SECONDS = 4.0
"""How long idle connections are kept: less than the five seconds after which common servers close them."""
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "text/event-stream, application/json",
    "Accept-Encoding": "identity",  # some proxies hold back what they compress
}

_log = logging.getLogger(__name__)


class HttpConnection:
    """A Connection to the API at `url`, with `key` as its bearer token."""

    def __init__(
        self, url: str, key: str, tls: ssl.SSLContext, refusals: Refusals, *, connect_timeout: float, most: int
    ) -> None:
        self._url = url
        self._refusals = refusals
        self._client = httpx2.AsyncClient(
            headers=_HEADERS | ({"Authorization": f"Bearer {key}"} if key else {}),
            verify=tls,
            timeout=httpx2.Timeout(None, connect=connect_timeout),  # who reads knows how long to wait
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEPT_SECONDS),
        )

    @asynccontextmanager
    async def open(self, path: str, body: bytes | None = None) -> AsyncIterator[Answer]:
        url = f"{self._url.removesuffix('/v1')}{path}" if path.startswith("/") else f"{self._url}/{path}"
        request = self._client.build_request("GET" if body is None else "POST", url, content=body)
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.HTTPError as error:
            _log.warning("model %s: %s: %s: %s", self._refusals.model, url, type(error).__name__, error)
            raise self._refusals.unreachable(_told(error)) from error
        try:
            yield _HttpAnswer(response, self._refusals)
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._client.aclose()


class _HttpAnswer:
    def __init__(self, response: httpx2.Response, refusals: Refusals) -> None:
        self._response = response
        self._refusals = refusals

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def streams(self) -> bool:
        return self._response.headers.get("content-type", "").lower().startswith("text/event-stream")

    @property
    def retry_after(self) -> str:
        value = str(self._response.headers.get("retry-after", ""))
        return value if value.isdecimal() and len(value) < 6 else ""

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.aiter_bytes():
                yield chunk
        except httpx2.HTTPError as error:
            _log.warning("model %s: %s: %s", self._refusals.model, type(error).__name__, error)
            raise self._refusals.unreachable("broke off its answer") from error


def tls_context(verify: bool, ca: Path | None) -> ssl.SSLContext:
    """Whom remote engines' certificates must come from; takes some ten milliseconds. Errors: OSError, ssl.SSLError."""
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _told(error: httpx2.HTTPError) -> str:
    match error:
        case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return "did not accept a connection in time"
        case httpx2.ConnectError() if isinstance(_root(error), ssl.SSLError):
            return "has a certificate that is not trusted"
        case httpx2.ConnectError():
            return "cannot be reached"
        case _:
            return "hung up"


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
