"""The one channel to the narthex server: who is told to call, and how every failure looks."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2
from narthex import certificates
from narthex.scopes import ALL_TOOLS
from narthex.tracing.context import TRACE

from narthex_bridge.caller import Caller
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.protocol.failures import BackendError, Violation, default_text
from narthex_bridge.upstream_tokens import HEADER, current

logger = logging.getLogger(__name__)

DOMAIN = "narthex"
_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse{status: SERVING}

Sent = TypeVar("Sent")
Received = TypeVar("Received")


class Connection:
    """A persistent channel; every failure of a call is a BackendError fit for clients."""

    def __init__(self, config: BridgeConfig, credential: str) -> None:
        """`credential` is the bridge's own bearer token; empty where the server asks for none."""
        self.call_timeout_s = config.call_timeout_s
        self.max_message_bytes = config.max_message_bytes
        self._rpc_timeout = config.rpc_timeout_s
        self._credential = credential
        self._secured = config.server_tls.ca is not None
        self.channel = _channel(config)

    async def ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Sent, Received],
        request: Sent,
        caller: Caller,
        request_id: str,
        limit_s: float | None = None,
    ) -> Received:
        """A unary call, of `limit_s` seconds or those of a list. Raises BackendError; cancelling cancels the call."""
        call = method(request, metadata=self.metadata(caller, request_id), timeout=limit_s or self._rpc_timeout)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise failure(error, request_id) from None
        except asyncio.CancelledError:
            raise_if_ours()
            raise
        finally:
            call.cancel()

    async def work(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Sent, Received],
        request: Sent,
        caller: Caller,
        request_id: str,
    ) -> Received:
        """A unary call that may take as long as a tool call or a generation may."""
        return await self.ask(method, request, caller, request_id, self.call_timeout_s)

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Sent, Received],
        request: Sent,
        caller: Caller,
        request_id: str,
    ) -> AsyncGenerator[Received, None]:
        """The messages of a streaming call; closing the iterator cancels it at once. Raises BackendError."""
        call = method(request, metadata=self.metadata(caller, request_id), timeout=self.call_timeout_s)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise failure(error, request_id) from None
        except asyncio.CancelledError:
            raise_if_ours()
            raise
        finally:
            call.cancel()

    @property
    def reachable(self) -> bool:
        """False between vain attempts to connect, when a call would fail at once."""
        return self.channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def healthy(self) -> bool:
        """Whether the server can be reached and says that it serves."""
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer: bytes = await check(b"", metadata=self.metadata(None, ""), timeout=min(self._rpc_timeout, 2.0))
        except grpc.aio.AioRpcError:
            return False
        return answer == _SERVING

    def distrust(self, error: grpc.aio.AioRpcError) -> str:
        """What to look at where a connection failed as it does when one side does not take the other's certificate.

        Empty for other failures. Nobody tells why a handshake of TLS 1.3 failed: the server just closes.
        """
        details = (error.details() or "").lower()
        if not self._secured or not any(sign in details for sign in ("socket closed", "ssl", "handshake")):
            return ""
        return (
            "; if the server runs: does it take the certificate of server_tls.cert, and is its own of server_tls.ca"
            " and for the name in `server`?"
        )

    async def close(self) -> None:
        await self.channel.close()

    def metadata(self, caller: Caller | None, request_id: str) -> tuple[tuple[str, str], ...]:
        """The bridge's credential, for whom it calls and in which trace, and what that caller brought for upstreams."""
        metadata = [("x-request-id", request_id)] if request_id else []
        if self._credential:
            metadata.append(("authorization", f"Bearer {self._credential}"))
        # A server that knows no keys believes nothing of it but that a caller may use fewer tools.
        if caller and (self._credential or caller.tools != ALL_TOOLS):
            metadata.append(("x-narthex-principal", caller.assertion))
        if caller and caller.session:
            metadata.append(("x-narthex-session", caller.session))
        if caller:
            metadata += [(f"{HEADER}{name}", token) for name, token in current().items()]
        if caller and (trace := TRACE.get()) is not None:
            metadata.extend(trace.carried().items())
        return tuple(metadata)


def raise_if_ours() -> None:
    """grpc raises CancelledError also for a call that the other side cancelled: then raises BackendError."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        raise BackendError("CANCELLED", "The server cancelled the call.") from None


def _channel(config: BridgeConfig) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    tls = config.server_tls
    if tls.ca is None:
        return grpc.aio.insecure_channel(str(config.server), options)
    certificates.check("server_tls", tls.cert, tls.key, tls.ca)
    credentials = grpc.ssl_channel_credentials(_read(tls.ca), _read(tls.key), _read(tls.cert))
    return grpc.aio.secure_channel(str(config.server), credentials, options)


def _read(path: Path | None) -> bytes | None:
    return path.read_bytes() if path else None


def failure(error: grpc.aio.AioRpcError, request_id: str) -> BackendError:
    """The failure behind a status. Only texts that the server marks as its own reach clients: others (of the transport,
    of a proxy) may tell about machines and code."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return from_status(error.code(), value, request_id, error.details())
    return from_status(error.code(), b"", request_id, error.details())


def from_status(code: grpc.StatusCode, details: bytes, request_id: str, text: str | None = None) -> BackendError:
    """As `failure`, of a status in parts: `details` is a google.rpc.Status or empty, `text` goes to the log alone."""
    status = code.name
    if details and (known := _detailed(status, details)) is not None:
        return known
    logger.warning("call %s failed: %s %s", request_id, status, text or "")
    if status in ("INTERNAL", "UNKNOWN", "DATA_LOSS"):
        return internal("The server failed to do this", request_id)
    return BackendError(status, default_text(status))


def internal(text: str, request_id: str) -> BackendError:
    """A failure that nobody but the log can explain."""
    return BackendError("INTERNAL", f"{text}; the log has more under request id {request_id}.")


def _detailed(status: str, details: bytes) -> BackendError | None:
    rich = status_pb2.Status.FromString(details)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in rich.details:
        any(detail.Unpack(known) for known in (info, bad, retry))
    if info.domain != DOMAIN:
        return None
    violations = [Violation(v.field, v.description) for v in bad.field_violations]
    after = retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None
    return BackendError(
        status, rich.message, reason=info.reason, metadata=dict(info.metadata), violations=violations, retry_after=after
    )
