"""An MCP connection that is agreed on."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import mcp_types as types
from mcp.client import ClientSession
from mcp.client._probe import negotiate_auto
from mcp.client._transport import TransportStreams
from mcp.client.subscriptions import Subscription, listen
from mcp.shared.dispatcher import Dispatcher
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter

from narthex_server.tools.exact_json import Dumped
from narthex_server.tools.upstream.declaring import DECLARED, declaring
from narthex_server.tools.upstream.results import CALL, is_call_result
from narthex_server.tools.upstream.session import OnProgress, Session

Connecting = AbstractAsyncContextManager[Dispatcher[Any]]

_AS_IT_CAME: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


class _Request(types.Request[dict[str, Any], str]):
    """Any request, its params as they are."""


class Client:
    """The SDK's `session`, and a short way past it for calls of tools where the dispatcher is our own."""

    def __init__(self, session: ClientSession, dispatcher: Dispatcher[Any], info: types.Implementation) -> None:
        """The session has agreed on a version."""
        assert session.protocol_version is not None and session.server_capabilities is not None
        self.session = session
        self.protocol_version = session.protocol_version
        self.server_capabilities = session.server_capabilities
        self._short = dispatcher if isinstance(dispatcher, Session) else None
        self._stamp: Mapping[str, Any] = (
            {
                types.PROTOCOL_VERSION_META_KEY: self.protocol_version,
                types.CLIENT_INFO_META_KEY: info.model_dump(by_alias=True, mode="json", exclude_none=True),
            }
            if self.is_modern
            else {}
        )

    @property
    def is_modern(self) -> bool:
        """Whether every request says what its client can do, as since 2026-07-28."""
        return self.protocol_version in MODERN_PROTOCOL_VERSIONS

    async def request(
        self, method: str, params: Mapping[str, Any], declared: Mapping[str, Any], on_progress: OnProgress | None = None
    ) -> dict[str, Any]:
        """The result as it came, of a request whose caller can answer what is `declared`; large members are Dumped.

        Raises:
            MCPError: the upstream's own error, or the end of the connection.
            ValueError: the answer is not a result of `method`.
        """
        if self._short is not None and method == CALL:
            if self.is_modern:
                stamp = {**self._stamp, types.CLIENT_CAPABILITIES_META_KEY: declared}
                params = {**params, "_meta": {**params.get("_meta", {}), **stamp}}
            result = await self._short.call(params, on_progress)
            if not isinstance(result.get("content"), Dumped) and not is_call_result(result):
                raise ValueError("members are missing, or of other types than they must be")
            return result
        return await self._long(method, params, declared, on_progress)

    def listen(self, **wanted: Any) -> AbstractAsyncContextManager[Subscription]:
        """As the SDK's Client.listen."""
        return listen(self.session, **wanted)

    async def _long(
        self, method: str, params: Mapping[str, Any], declared: Mapping[str, Any], on_progress: OnProgress | None
    ) -> dict[str, Any]:
        token = DECLARED.set(declared)
        try:
            result: dict[str, Any] = await self.session.send_request(
                _Request(method=method, params=dict(params)),
                _AS_IT_CAME,
                progress_callback=None if on_progress is None else partial(_tell, on_progress),
            )
            return result
        finally:
            DECLARED.reset(token)


@asynccontextmanager
async def connected(
    connecting: Connecting, *, handshake: bool, info: types.Implementation, **callbacks: Any
) -> AsyncGenerator[Client]:
    """Agrees on a version, by `initialize` alone where `handshake`; `callbacks` are ClientSession's."""
    async with (
        connecting as dispatcher,
        ClientSession(dispatcher=dispatcher, client_info=info, **callbacks) as session,
    ):
        if handshake:
            await session.initialize()
        else:
            await negotiate_auto(session)
        yield Client(session, dispatcher, info)


@asynccontextmanager
async def dispatching(transport: AbstractAsyncContextManager[TransportStreams]) -> AsyncGenerator[Dispatcher[Any]]:
    """The SDK's dispatcher over a transport of the SDK's kind."""
    async with declaring(transport) as (reading, writing):
        yield JSONRPCDispatcher(reading, writing)


async def _tell(on_progress: OnProgress, progress: float, total: float | None, message: str | None) -> None:
    on_progress(progress, total, message)
