"""Questions with one answer: reading resources, filling in prompts, suggestions."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import mcp_types as types
from mcp.shared.exceptions import MCPError

from narthex_server.errors import InvalidRequest, NotFound, Unavailable, UpstreamRefused
from narthex_server.tools.completion import Completion, PromptReference, Reference, Typed
from narthex_server.tools.prompt import FilledPrompt
from narthex_server.tools.resource import Contents
from narthex_server.tools.tool import CallContext, InputRequired
from narthex_server.tools.upstream import answers
from narthex_server.tools.upstream.client import Client
from narthex_server.tools.upstream.clock import in_time
from narthex_server.tools.upstream.exchange import Exchange
from narthex_server.tools.upstream.inputs import is_lost
from narthex_server.tools.upstream.source import ServerSource

RESOURCE_NOT_FOUND = -32002
"""Until 2025-11-25; since then it is INVALID_PARAMS."""

_UNKNOWN = (RESOURCE_NOT_FOUND, types.INVALID_PARAMS, types.METHOD_NOT_FOUND)
_Answer = TypeVar("_Answer")


class Requests:
    """Asks `client`, which the owner sets while it is connected.

    All verbs raise MCPError when the connection is lost, DeadlineExceeded, Unavailable for an answer that is none, and
    UpstreamRefused for the upstream's own errors.
    """

    def __init__(self, source: ServerSource, exchange: Exchange) -> None:
        self._source = source
        self._exchange = exchange
        self._turns = asyncio.Semaphore(source.concurrency)
        self.client: Client | None = None

    def disconnect(self) -> None:
        self.client = None

    async def read(self, uri: str, context: CallContext) -> Contents | InputRequired:
        """Raises NotFound for a URI that the server does not know."""
        try:
            raw = await self._ask("resources/read", {"uri": uri}, context)
        except MCPError as error:
            if error.code in _UNKNOWN:
                raise NotFound(error.message, reason="RESOURCE_NOT_FOUND", metadata={"uri": uri}) from None
            raise self._refused(error) from None
        return raw if isinstance(raw, InputRequired) else self._converted(raw, answers.contents)

    async def fill(self, prompt: str, arguments: dict[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        """Raises InvalidRequest for arguments that do not fit."""
        try:
            raw = await self._ask("prompts/get", {"name": prompt, "arguments": arguments}, context)
        except MCPError as error:
            raise self._refused(error) from None
        return raw if isinstance(raw, InputRequired) else self._converted(raw, answers.filled)

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        """Raises InvalidRequest for an argument that the server does not know."""
        if self.client is not None and self.client.server_capabilities.completions is None:
            return Completion()
        params: dict[str, Any] = {"ref": _ref(reference), "argument": {"name": typed.argument, "value": typed.value}}
        if typed.known:
            params["context"] = {"arguments": dict(typed.known)}
        try:
            raw = await self._ask("completion/complete", params, context)
        except MCPError as error:
            raise self._refused(error) from None
        return Completion() if isinstance(raw, InputRequired) else self._converted(raw, answers.completion)

    async def _ask(
        self, method: str, params: Mapping[str, Any], context: CallContext
    ) -> dict[str, Any] | InputRequired:
        source = self._source
        async with in_time(source.name, source.call_seconds, context.deadline, method), self._turns:
            if self.client is None:
                raise MCPError(types.CONNECTION_CLOSED, "connection closed")
            return await self._exchange.make(self.client, method, params, context)

    def _refused(self, error: MCPError) -> Exception:
        if is_lost(error):
            return error
        metadata = {"upstream": self._source.name, "jsonrpc_code": str(error.code)}
        if error.code == types.INVALID_PARAMS:
            return InvalidRequest(error.message, metadata=metadata)
        return UpstreamRefused(f"upstream {self._source.name!r} failed: {error.message}", metadata=metadata)

    def _converted(self, raw: answers.Raw, convert: Callable[[answers.Raw], _Answer]) -> _Answer:
        try:
            return convert(raw)
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(
                f"upstream {self._source.name!r} answered with what cannot be read: {type(error).__name__}",
                reason="UPSTREAM_INVALID_RESULT",
                metadata={"upstream": self._source.name},
            ) from None


def _ref(reference: Reference) -> dict[str, str]:
    if isinstance(reference, PromptReference):
        return {"type": "ref/prompt", "name": reference.name}
    return {"type": "ref/resource", "uri": reference.uri_template}
