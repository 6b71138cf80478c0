"""JSON-RPC 2.0 messages: parsing with guards, and encoding that passes foreign JSON through untouched."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
REQUEST_CANCELLED = -32800

MAX_DEPTH = 100
_NESTING = (dict, list)
MAX_BATCH = 64

Id: TypeAlias = str | int


class RpcError(Exception):
    """A JSON-RPC error object: `code`, a message for people and optional machine-readable `data`."""

    def __init__(self, code: int, message: str, data: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


@dataclass(frozen=True, slots=True)
class Request:
    """A call that must get exactly one response; `arguments` is the JSON of params.arguments exactly as it was sent."""

    id: Id
    method: str
    params: Mapping[str, Any]
    arguments: bytes = b""


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that gets no response."""

    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's response to a request of the server's: a result or an error object, as JSON."""

    id: Id
    result: bytes = b""
    error: bytes = b""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A message that is JSON but not JSON-RPC; `id` is set where it could be read."""

    error: RpcError
    id: Id | None = None


Message: TypeAlias = Request | Notification | Answer | Invalid


def parse(body: bytes) -> Message | list[Message]:
    """Read a body: one message, or a list for a batch.

    Raises RpcError (PARSE_ERROR, INVALID_REQUEST) when the body as a whole is unusable.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RpcError(PARSE_ERROR, f"The body is not valid JSON: {error}") from None
    _guard_depth(body, value)
    text = body.decode()
    if not isinstance(value, list):
        return _message(value, text)
    if not value:
        raise RpcError(INVALID_REQUEST, "A batch must not be empty.")
    if len(value) > MAX_BATCH:
        raise RpcError(INVALID_REQUEST, f"A batch holds at most {MAX_BATCH} messages; this one has {len(value)}.")
    return [_message(item, source) for item, source in zip(value, _elements(text), strict=True)]


def compact(message: bytes) -> bytes:
    """A copy to keep: what orjson writes takes some kilobytes of memory, however little it is."""
    return bytes(memoryview(message))


def result(request_id: Id, value: object) -> bytes:
    """Encode a success response; `value` may hold orjson.Fragment."""
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": value})


def error(request_id: Id | None, failure: RpcError) -> bytes:
    """Encode an error response; id is null where the request's could not be read."""
    body: dict[str, object] = {"code": failure.code, "message": failure.message}
    if failure.data is not None:
        body["data"] = failure.data
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": body})


def request(request_id: Id, method: str, params: object) -> bytes:
    """Encode a request; `params` may hold orjson.Fragment."""
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def notification(method: str, params: Mapping[str, object] | None = None) -> bytes:
    """Encode a notification."""
    if params is None:
        return orjson.dumps({"jsonrpc": "2.0", "method": method})
    return orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params})


def _message(value: Any, text: str) -> Message:
    if not isinstance(value, dict):
        return Invalid(RpcError(INVALID_REQUEST, "A JSON-RPC message is an object."))
    raw_id = value.get("id")
    request_id = raw_id if isinstance(raw_id, (str, int)) and not isinstance(raw_id, bool) else None
    if value.get("jsonrpc") != "2.0":
        return Invalid(RpcError(INVALID_REQUEST, 'The member "jsonrpc" must be "2.0".'), request_id)
    if "method" not in value:
        if request_id is not None and isinstance(value.get("result"), dict):
            return Answer(request_id, result=orjson.dumps(value["result"]))
        if request_id is not None and isinstance(value.get("error"), dict):
            return Answer(request_id, error=orjson.dumps(value["error"]))
        return Invalid(RpcError(INVALID_REQUEST, 'A message has a "method", or a "result" or "error".'), request_id)
    method, params = value["method"], value.get("params", {})
    if not isinstance(method, str):
        return Invalid(RpcError(INVALID_REQUEST, '"method" must be a string.'), request_id)
    if not isinstance(params, dict):
        return Invalid(RpcError(INVALID_REQUEST, '"params" must be an object.'), request_id)
    if "id" not in value:
        return Notification(method, params)
    if request_id is None:
        return Invalid(RpcError(INVALID_REQUEST, '"id" must be a string or an integer.'))
    return Request(request_id, method, params, _arguments(text) if "arguments" in params else b"")


def _guard_depth(body: bytes, value: Any) -> None:
    # Counting brackets bounds the depth from above and settles almost every message without a walk.
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return
    level = [value] if isinstance(value, _NESTING) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        children = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for some in children for child in some if child and isinstance(child, _NESTING)]
    if level:
        raise RpcError(INVALID_REQUEST, f"The message is nested deeper than {MAX_DEPTH} levels.")


# The sources of values are cut out of the body with the C scanners of the standard library, on text known to be valid
# JSON: what a tool receives is what the client wrote, also for integers and decimals that no parser would keep exactly.
_DECODER = json.JSONDecoder()
_PATH = ("params", "arguments")


def _arguments(text: str) -> bytes:
    span, _ = _find(text, _skip(text, 0), _PATH)
    return text[slice(*span)].encode() if span else b""


def _find(text: str, at: int, path: tuple[str, ...]) -> tuple[tuple[int, int] | None, int]:
    """Walk the object at `at` once; returns the span of the value at `path` (of a repeated name the last counts, as in
    the parser) and the end of the object."""
    span = None
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        if name == path[0] and len(path) > 1 and text[start] == "{":
            span, at = _find(text, start, path[1:])
        else:
            _, at = _DECODER.raw_decode(text, start)
            if name == path[0]:
                span = (start, at)
        at = _next(text, at)
    return span, at + 1


def _elements(text: str) -> Iterator[str]:
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "]":
        _, end = _DECODER.raw_decode(text, at)
        yield text[at:end]
        at = _next(text, end)


def _next(text: str, at: int) -> int:
    at = _skip(text, at)
    return _skip(text, at + 1) if text[at] == "," else at


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
