"""An HTTP API as an upstream: each operation of its document is a tool."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2

from narthex_server.errors import NotFound, Unavailable
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.completion import Completion, Reference, Typed
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.tool import CallContext, InputRequired, Tool, ToolEvent, ToolResult
from narthex_server.tools.upstream.breaker import Breaker
from narthex_server.tools.upstream.grant import granted
from narthex_server.tools.upstream.kept import KeptServer
from narthex_server.tools.upstream.openapi.answer import MOST_BYTES, result_of, too_large
from narthex_server.tools.upstream.openapi.document import MOST_BYTES as MOST_DOCUMENT
from narthex_server.tools.upstream.openapi.document import Document
from narthex_server.tools.upstream.openapi.operation import Choice, Operation, operations
from narthex_server.tools.upstream.openapi.request import Request, request_of
from narthex_server.tools.upstream.source import OpenApi, ServerSource
from narthex_server.tools.upstream.urls import origin
from narthex_server.tools.upstream.web.client import opened
from narthex_server.watched_file import WatchedFile

AGAIN = 600.0
"""Seconds after which a document behind a URL is read again."""

MOST_REDIRECTS = 3


class OpenApiServer(KeptServer):
    """An UpstreamServer of tools alone; on the event loop only.

    There is no connection that could be lost: it is up while its document is known, and a call says itself when the API
    cannot be reached.
    """

    def __init__(self, source: ServerSource, api: OpenApi, locks: Locks = UNMETERED) -> None:
        super().__init__(source, Breaker(source.breaker) if source.breaker else None)
        self._api = api
        self._locks = locks
        self._operations: dict[str, Operation] = {}
        self._client: httpx2.AsyncClient | None = None
        self._base = ""
        self._edition: Hashable = object()

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(operation.tool for operation in self._operations.values())

    @property
    def has_resources(self) -> bool:
        return False

    @property
    def resources(self) -> tuple[Resource, ...]:
        return ()

    @property
    def templates(self) -> tuple[ResourceTemplate, ...]:
        return ()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return ()

    def edition(self, context: CallContext) -> Hashable:
        return self._keeper.status.since, self._edition

    async def call(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncGenerator[ToolEvent]:
        if self._client is None:
            raise self._keeper.unavailable()
        if (operation := self._operations.get(tool)) is None:  # since the caller's list of them
            raise NotFound(f"upstream {self.name!r} has no tool {tool!r} any more", reason="TOOL_NOT_FOUND")
        request = request_of(operation, arguments)
        with self._keeper.passing(context) as passage:
            async with self._in_time(context):
                answer = await self._send(request, context)
            context.over()
            result = self._secrets.hide_in_result(answer)
            passage.saw(result)
            yield result

    async def read(self, uri: str, context: CallContext) -> Contents | InputRequired:
        raise NotFound(f"upstream {self.name!r} has no resources", reason="RESOURCE_NOT_FOUND", metadata={"uri": uri})

    async def fill(self, prompt: str, arguments: dict[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        raise NotFound(f"upstream {self.name!r} has no prompts", reason="PROMPT_NOT_FOUND")

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        return Completion()

    def watch(self, uris: frozenset[str], updated: Callable[[str], None]) -> None:
        """Nothing: there are no resources."""

    async def watching(self) -> None:
        """At once, for the same reason."""

    async def _connection(self) -> None:
        """Until the API is another one, as its client shows that one's tokens."""
        place = self._api.document
        file = None if place.startswith(("http://", "https://")) else WatchedFile(Path(place))
        async with AsyncExitStack() as stack:
            data = await self._fetched(place) if file is None else await asyncio.to_thread(_read, file)
            await self._take(data)
            base = self._base
            self._client = await stack.enter_async_context(
                opened(self._api, base, self._secrets, self._source.call_seconds, self._locks)
            )
            stack.callback(self._forget)
            self._keeper.ready()
            while self._base == base:
                try:
                    data = await (file.changed() if file is not None else self._refetched(place, data))
                    await self._take(data)
                except Unavailable as error:
                    self._keeper.ready(trouble=f"keeps the operations it has: {error.message}")
                else:
                    self._keeper.ready()

    async def _refetched(self, url: str, before: bytes) -> bytes:
        while True:
            await asyncio.sleep(AGAIN)
            if (data := await self._fetched(url)) != before:
                return data

    def _forget(self) -> None:
        self._client = None

    async def _take(self, data: bytes) -> None:
        """The operations of the document; a thread reads it, as a large one takes a second."""
        self._base, self._operations = await asyncio.to_thread(self._parsed, data)
        self._edition = object()

    def _parsed(self, data: bytes) -> tuple[str, dict[str, Operation]]:
        document = Document.parse(data)
        base = self._api.url or document.base(self._api.document)
        headers = frozenset(name.lower() for name in self._api.headers)
        found = operations(document, self.name, Choice(self._api.include, self._api.exclude, headers))
        return base.rstrip("/"), {operation.tool.name: operation for operation in found}

    async def _fetched(self, url: str) -> bytes:
        """The document behind a URL; what is shown to the API is shown there only if it is on the API's own origin."""
        ours = self._api.url is not None and origin(self._api.url) == origin(url)
        source = self._api if ours else OpenApi(url, tls=self._api.tls)
        try:
            async with (
                asyncio.timeout(self._source.start_timeout),
                opened(source, url, self._secrets, self._source.start_timeout, self._locks) as client,
                client.stream("GET", url, headers={"Accept": "application/json, application/yaml, */*"}) as response,
            ):
                if response.status_code != 200:
                    raise Unavailable(f"its document cannot be had: HTTP {response.status_code}")
                if (data := await _bounded(response, MOST_DOCUMENT)) is None:
                    raise Unavailable(f"its document has more than {MOST_DOCUMENT} bytes")
                return data
        except TimeoutError:
            raise Unavailable(f"its document did not come within {self._source.start_timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise Unavailable(f"its document cannot be had: {type(error).__name__}") from None

    async def _send(self, request: Request, context: CallContext) -> ToolResult:
        if (client := self._client) is None:  # it was lost while this call waited for its turn
            raise self._keeper.unavailable()
        with granted(self.name, self._source.auth, context, self._secrets):
            try:
                return await self._followed(client, request)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise Unavailable(
                    f"upstream {self.name!r} cannot be reached: {type(error).__name__}",
                    reason="UPSTREAM_UNAVAILABLE",
                    metadata={"upstream": self.name},
                ) from None

    async def _followed(self, client: httpx2.AsyncClient, request: Request) -> ToolResult:
        """The answer; a redirect is followed for who only reads, and to the API's own origin."""
        url = self._base + request.target
        files = [(name, (None, content, kind)) for name, content, kind in request.parts] or None
        for hop in range(MOST_REDIRECTS + 1):
            async with client.stream(
                request.method, url, headers=dict(request.headers), content=request.body, files=files
            ) as response:
                location = response.headers.get("location", "") if 300 <= response.status_code < 400 else ""
                target = urljoin(url, location) if location else ""
                reads = request.method in ("GET", "HEAD") and hop < MOST_REDIRECTS
                if target and reads and origin(target) == origin(self._base):
                    url = target
                    continue
                if (body := await _bounded(response, MOST_BYTES)) is None:
                    return too_large(response.status_code)
                kind = response.headers.get("content-type", "")
                return result_of(response.status_code, response.reason_phrase, kind, body, target)
        raise AssertionError("the last answer is never followed")


async def _bounded(response: httpx2.Response, most: int) -> bytes | None:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > most:
            return None
    return bytes(data)


def _read(file: WatchedFile) -> bytes:
    """Raises Unavailable, OSError."""
    if file.path.stat().st_size > MOST_DOCUMENT:
        raise Unavailable(f"its document has more than {MOST_DOCUMENT} bytes")
    return file.read()
