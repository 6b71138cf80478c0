"""The narthex server, seen through its public contract; the only file of the bridge that speaks gRPC."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from narthex import certificates
from narthex.v1 import tool_pb2, tool_pb2_grpc

from narthex_bridge.caller import Caller
from narthex_bridge.config import BridgeConfig
from narthex_bridge.protocol.events import InputRequired, Log, Progress, Result, TextDelta, Tool, ToolEvent
from narthex_bridge.protocol.failures import BackendError, Violation, default_text
from narthex_bridge.protocol.methods import LOG_LEVELS

logger = logging.getLogger(__name__)

DOMAIN = "narthex"
WATCH_RETRY_S = (0.1, 5.0)
_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse{status: SERVING}


class Backend:
    """One persistent channel to the server; every failure of a call is a BackendError fit for clients."""

    def __init__(self, config: BridgeConfig, credential: str) -> None:
        """`credential` is the bridge's own bearer token; empty where the server asks for none."""
        self._call_timeout = config.call_timeout_s
        self._rpc_timeout = config.rpc_timeout_s
        self._credential = credential
        self._channel = _channel(config)
        self._tools = tool_pb2_grpc.ToolServiceStub(self._channel)

    async def list_tools(self, caller: Caller, request_id: str, cursor: str) -> tuple[tuple[Tool, ...], str]:
        """A page of the tools this caller may call, and the cursor of the next one (empty at the end)."""
        request = tool_pb2.ListToolsRequest(page_token=cursor)
        try:
            page = await self._tools.ListTools(
                request, metadata=self._metadata(caller, request_id), timeout=self._rpc_timeout
            )
        except grpc.aio.AioRpcError as error:
            raise _failure(error, request_id) from None
        return tuple(map(_tool, page.tools)), page.next_page_token

    async def call_tool(
        self, caller: Caller, request_id: str, name: str, arguments: bytes
    ) -> AsyncGenerator[ToolEvent, None]:
        """The events of a call, the last of them its Result; closing the iterator cancels the call at once."""
        call = self._tools.CallTool(
            tool_pb2.CallToolRequest(name=name, arguments=arguments),
            metadata=self._metadata(caller, request_id),
            timeout=self._call_timeout,
        )
        result: Result | None = None
        try:
            async for response in call:
                event = _event(response)
                if isinstance(event, Result):
                    result = event  # read on to the status: a call left here would count as cancelled
                elif event is not None:
                    yield event
        except grpc.aio.AioRpcError as error:
            raise _failure(error, request_id) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # grpc raises the same for a call that the other side cancelled.
            raise BackendError("CANCELLED", "The server cancelled the call.") from None
        finally:
            call.cancel()
        if result is None:
            raise _internal("The tool call ended without a result", request_id)
        yield result

    async def watch(self) -> AsyncIterator[bool]:
        """True whenever the catalog is there or has changed, False whenever the server is lost; reconnects for ever."""
        delay, longest = WATCH_RETRY_S
        watched = False
        while True:
            call = self._tools.WatchTools(tool_pb2.WatchToolsRequest(), metadata=self._metadata(None, ""))
            try:
                async for _ in call:
                    delay, watched = WATCH_RETRY_S[0], True
                    yield True
            except grpc.aio.AioRpcError as error:
                # Before the first success the server is still starting; after that, each loss is told once.
                level = logging.INFO if watched else logging.DEBUG
                logger.log(level, "the server's catalog cannot be watched: %s %s", error.code().name, error.details())
                watched = False
            finally:
                call.cancel()
            yield False
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)

    async def healthy(self) -> bool:
        """Whether the server can be reached and says that it serves."""
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check"
        )
        try:
            answer: bytes = await check(b"", metadata=self._metadata(None, ""), timeout=min(self._rpc_timeout, 2.0))
        except grpc.aio.AioRpcError:
            return False
        return answer == _SERVING

    async def close(self) -> None:
        await self._channel.close()

    def _metadata(self, caller: Caller | None, request_id: str) -> tuple[tuple[str, str], ...]:
        metadata = [("x-request-id", request_id)] if request_id else []
        if self._credential:
            metadata.append(("authorization", f"Bearer {self._credential}"))
            if caller:
                metadata.append(("x-narthex-principal", caller.assertion))
        return tuple(metadata)


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


def _tool(tool: tool_pb2.Tool) -> Tool:
    return Tool(tool.name, tool.title, tool.description, tool.input_schema, tool.output_schema, tool.annotations)


def _event(response: tool_pb2.CallToolResponse) -> ToolEvent | None:
    match response.WhichOneof("event"):
        case "text_delta":
            return TextDelta(response.text_delta.text)
        case "progress":
            progress = response.progress
            return Progress(progress.progress, progress.total if progress.HasField("total") else None, progress.message)
        case "log":
            return Log(LOG_LEVELS[max(response.log.level - 1, 0)], response.log.logger, response.log.data)
        case "input_required":
            return InputRequired()
        case "result":
            result = response.result
            return Result(result.content, result.structured_content, result.is_error)
        case _:
            return None  # an event of a newer contract


def _failure(error: grpc.aio.AioRpcError, request_id: str) -> BackendError:
    """The failure behind a status. Only texts that the server marks as its own reach clients: others (of the transport,
    of a proxy) may tell about machines and code."""
    status = error.code().name
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            failure = _detailed(status, value)
            if failure:
                return failure
    logger.warning("call %s failed: %s %s", request_id, status, error.details())
    if status in ("INTERNAL", "UNKNOWN", "DATA_LOSS"):
        return _internal("The server failed to do this", request_id)
    return BackendError(status, default_text(status))


def _detailed(status: str, details: bytes) -> BackendError | None:
    rich = status_pb2.Status.FromString(details)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in rich.details:
        if not detail.Unpack(info):
            detail.Unpack(bad)
    if info.domain != DOMAIN:
        return None
    violations = [Violation(v.field, v.description) for v in bad.field_violations]
    return BackendError(status, rich.message, reason=info.reason, metadata=dict(info.metadata), violations=violations)


def _internal(text: str, request_id: str) -> BackendError:
    return BackendError("INTERNAL", f"{text}; the log has more under request id {request_id}.")
