"""One connection to another narthex: who calls it, for whom, and how every failure looks."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from narthex.v1 import tool_pb2_grpc

from narthex_server.cascade.failures import failure
from narthex_server.errors import Cancelled, Unavailable
from narthex_server.principal import ASSERTED_HEADER, REQUEST_ID_HEADER
from narthex_server.tools.reach import VIA, VIA_HEADER
from narthex_server.tools.tool import CallContext
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.source import Narthex
from narthex_server.tools.upstream.tls import Tls
from narthex_server.tools.upstream.tokens import token_for

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The largest answer that is taken; how much of it our own callers get is the server's own limit."""

Metadata = tuple[tuple[str, str], ...]
Sent = TypeVar("Sent")
Received = TypeVar("Received")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who forwards: the upstream's name here, and this server's id."""

    upstream: str
    instance: str


class Wire:
    """A channel, and the stubs on it; failures of its calls are NarthexErrors, and their texts hide secrets."""

    def __init__(self, identity: Identity, source: Narthex, channel: grpc.aio.Channel, api_key: str, secrets: Secrets):
        self._identity = identity
        self._source = source
        self._channel = channel
        self._api_key = api_key
        self._secrets = secrets
        self.tools = tool_pb2_grpc.ToolServiceStub(channel)

    @classmethod
    def opened(cls, identity: Identity, source: Narthex, secrets: Secrets) -> Self:
        """On the event loop; files are read again for each connection. Raises Unavailable, OSError."""
        api_key = "" if source.api_key is None else secrets.reveal(source.api_key)
        return cls(identity, source, _channel(source), api_key, secrets)

    def metadata(self, context: CallContext | None = None) -> Metadata:
        """Of a call for somebody, or of our own; raises Unauthenticated for a caller who has to bring a key."""
        key = self._api_key
        if context is not None and self._source.passthrough:
            key = token_for(self._identity.upstream, context.upstream_tokens)
            self._secrets.note_brought(key)
        metadata = [(VIA_HEADER, ",".join((*VIA.get(), self._identity.instance)))]
        if key:
            metadata.append(("authorization", f"Bearer {key}"))
        if context is not None:
            metadata.append((REQUEST_ID_HEADER, context.request_id))
            if self._source.delegate:
                caller = {"name": context.principal.name, "tenant": context.principal.tenant}
                metadata.append((ASSERTED_HEADER, json.dumps(caller)))
        return tuple(metadata)

    async def ask(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Sent, Received]",
        request: Sent,
        metadata: Metadata,
        seconds: float | None,
    ) -> Received:
        """The one answer; cancelling cancels the call there."""
        call = method(request, metadata=metadata, timeout=seconds)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise failure(error, self._identity.upstream, self._secrets.hide) from None
        except asyncio.CancelledError:
            self._raise_if_theirs()
            raise
        finally:
            call.cancel()

    async def stream(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[Sent, Received]",
        request: Sent,
        metadata: Metadata,
        seconds: float | None = None,
    ) -> AsyncGenerator[Received, None]:
        """The answers as they come; closing the iterator cancels the call there."""
        call = method(request, metadata=metadata, timeout=seconds)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise failure(error, self._identity.upstream, self._secrets.hide) from None
        except asyncio.CancelledError:
            self._raise_if_theirs()
            raise
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close()

    def _raise_if_theirs(self) -> None:
        """grpc raises CancelledError also for a call that the other side cancelled, or whose channel was closed."""
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            raise Cancelled(
                f"upstream {self._identity.upstream!r} ended the call", metadata={"upstream": self._identity.upstream}
            ) from None


def _channel(source: Narthex) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),  # a new channel connects at once, whatever an older one waits for
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if not source.secure:
        return grpc.aio.insecure_channel(source.target, options)
    if source.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", source.tls.server_name))
    return grpc.aio.secure_channel(source.target, _credentials(source.tls), options)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    tls.context()  # says of broken files what grpc does not
    if tls.cert is not None and tls.key is None:
        raise Unavailable("tls.key is missing, and over gRPC a certificate needs one in a file of its own")
    return grpc.ssl_channel_credentials(_read(tls.ca), _read(tls.key), _read(tls.cert))


def _read(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
