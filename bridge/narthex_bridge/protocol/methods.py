"""Requests and notifications of MCP clients, read into the effects they ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.eras import ERAS, VERSIONS, Era, negotiate
from narthex_bridge.protocol.jsonrpc import Id, Notification, Request, RpcError

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
DEFAULT_LOG_LEVEL = "info"

_VERSION_META = "io.modelcontextprotocol/protocolVersion"


@dataclass(frozen=True, slots=True)
class Initialize:
    """Open the session in this era."""

    era: Era


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with an empty object."""


@dataclass(frozen=True, slots=True)
class SetLogLevel:
    """Send log messages of this level and above from now on."""

    level: str


@dataclass(frozen=True, slots=True)
class ListTools:
    """List the tools from `cursor` on; empty is the start."""

    cursor: str


@dataclass(frozen=True, slots=True)
class CallTool:
    """Call a tool with the JSON object `arguments`; `token` is the client's progress token, if it gave one."""

    name: str
    arguments: bytes
    token: Id | None


Effect: TypeAlias = Initialize | Ping | SetLogLevel | ListTools | CallTool


def read(request: Request) -> Effect:
    """The effect a request asks for. Raises RpcError where there is no such thing or it is malformed."""
    _check_version(request)
    reader = _METHODS.get(request.method)
    if reader is None:
        raise RpcError(jsonrpc.METHOD_NOT_FOUND, f"The method {request.method[:100]!r} does not exist here.")
    return reader(request)


def cancelled_id(notification: Notification) -> Id | None:
    """The id of the request that a notification cancels, or None where it cancels none."""
    if notification.method != "notifications/cancelled":
        return None
    return _id(notification.params.get("requestId"))


def progress_token(request: Request) -> Id | None:
    """The progress token of a request, or None."""
    meta = request.params.get("_meta")
    return _id(meta.get("progressToken")) if isinstance(meta, dict) else None


def initialize_result(era: Era, version: str) -> Mapping[str, object]:
    """The answer to initialize; `version` is the bridge's own."""
    info = {"name": "narthex", "version": version} | ({"title": "narthex"} if era.titles else {})
    return {
        "protocolVersion": era.version,
        "capabilities": {"tools": {"listChanged": True}, "logging": {}},
        "serverInfo": info,
    }


def _check_version(request: Request) -> None:
    meta = request.params.get("_meta")
    wanted = meta.get(_VERSION_META) if isinstance(meta, dict) else None
    if request.method == "server/discover" or (wanted is not None and wanted not in ERAS):
        raise unsupported_version(wanted)


def unsupported_version(wanted: object) -> RpcError:
    """The error that names the versions spoken here, so that a newer client falls back to one of them."""
    return RpcError(
        jsonrpc.UNSUPPORTED_VERSION,
        "This protocol version is not supported; use initialize with one that is.",
        {"supported": list(VERSIONS), "requested": wanted if isinstance(wanted, str) else ""},
    )


def _initialize(request: Request) -> Initialize:
    wanted = request.params.get("protocolVersion")
    if not isinstance(wanted, str):
        raise RpcError(jsonrpc.INVALID_PARAMS, '"protocolVersion" must be a string.')
    return Initialize(negotiate(wanted))


def _set_log_level(request: Request) -> SetLogLevel:
    level = request.params.get("level")
    if level not in LOG_LEVELS:
        raise RpcError(jsonrpc.INVALID_PARAMS, f'"level" must be one of {", ".join(LOG_LEVELS)}.')
    return SetLogLevel(level)


def _list_tools(request: Request) -> ListTools:
    cursor = request.params.get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise RpcError(jsonrpc.INVALID_PARAMS, '"cursor" must be a string.')
    return ListTools(cursor or "")


def _call_tool(request: Request) -> CallTool:
    name, arguments = request.params.get("name"), request.params.get("arguments")
    if not isinstance(name, str) or not name:
        raise RpcError(jsonrpc.INVALID_PARAMS, '"name" must be the name of a tool.')
    if arguments is not None and not isinstance(arguments, dict):
        raise RpcError(jsonrpc.INVALID_PARAMS, '"arguments" must be an object.')
    return CallTool(name, b"{}" if arguments is None else request.arguments, progress_token(request))


def _id(value: Any) -> Id | None:
    return value if isinstance(value, (str, int)) and not isinstance(value, bool) else None


_METHODS: Mapping[str, Callable[[Request], Effect]] = {
    "initialize": _initialize,
    "ping": lambda _: Ping(),
    "logging/setLevel": _set_log_level,
    "tools/list": _list_tools,
    "tools/call": _call_tool,
}
METHODS = tuple(_METHODS)
