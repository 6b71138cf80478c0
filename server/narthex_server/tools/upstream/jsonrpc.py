"""JSON-RPC 2.0 messages to bytes and back, one a line; whatever a message holds passes through as it came."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from narthex_server.tools.exact_json import dump, parse
from narthex_server.tools.upstream.lines import LongLine

if TYPE_CHECKING:  # which takes longer to import than a small process may to start
    from mcp_types import ErrorData, RequestId

Message = Mapping[str, Any]

_ID = rb'"id"\s*:\s*(-?[0-9]{1,18}|"[^"\\]{0,200}")\s*'
_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_FIRST = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb",\s*)?" + _ID + b",")
_LAST = re.compile(rb",\s*" + _ID + rb"(?:,\s*" + _VERSION + rb")?\}\s*\Z")


def request(number: "RequestId", method: str, params: Mapping[str, Any] | None) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "method": method}
    if params:
        message["params"] = params
    return dump(message) + b"\n"


def notification(method: str, params: Mapping[str, Any] | None) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return dump(message) + b"\n"


def result(number: "RequestId", value: Mapping[str, Any]) -> bytes:
    return dump({"jsonrpc": "2.0", "id": number, "result": value}) + b"\n"


def error(number: "RequestId", what: "ErrorData") -> bytes:
    return dump({"jsonrpc": "2.0", "id": number, "error": what.model_dump(exclude_none=True)}) + b"\n"


def read(line: bytes) -> Message | None:
    """The request, notification or response in a line; None for what is none, of which nothing else is known."""
    try:
        message = parse(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return None
    if "method" in message:
        params = message.get("params")
        fits = isinstance(message["method"], str) and (params is None or isinstance(params, dict))
        return message if fits and ("id" not in message or is_id(message["id"])) else None
    if isinstance(message.get("result"), dict):
        return message if "id" in message else None
    return message if _is_error(message.get("error")) else None


def id_of(line: LongLine) -> "RequestId | None":
    """Of a response whose middle is gone: its id, where that is the first or the last thing in it but the version."""
    found = _FIRST.match(line.head) or _LAST.search(line.tail)
    return None if found is None else parse(found[1])


def is_id(value: object) -> "TypeGuard[RequestId]":
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_error(value: object) -> bool:
    match value:
        case {"code": int(), "message": str()}:
            return True
    return False
