"""The members of a request's params, read with care: each reader raises an RpcError that names the member."""

from collections.abc import Mapping
from typing import Any

import orjson

from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.effects import FIRST, Retry
from narthex_bridge.protocol.jsonrpc import Id, Request, RpcError

RESERVED = "io.modelcontextprotocol/"
MAX_NAME = 4096


def invalid(text: str) -> RpcError:
    return RpcError(jsonrpc.INVALID_PARAMS, text)


def text(params: Mapping[str, Any], name: str, what: str) -> str:
    """A text that must be there and not be empty."""
    value = params.get(name)
    if not isinstance(value, str) or not value or len(value) > MAX_NAME:
        raise invalid(f'"{name}" must be {what}.')
    return value


def optional_text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f'"{name}" must be a string.')
    return value or ""


def texts(params: Mapping[str, Any], name: str) -> Mapping[str, str]:
    """An object of texts; empty where it is missing."""
    value = params.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise invalid(f'"{name}" must be an object of strings.')
    return value


def child(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object; empty where it is missing."""
    value = params.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f'"{name}" must be an object.')
    return value


def as_id(value: Any) -> Id | None:
    """The value where it can be an id or a token, else None."""
    return value if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def progress_token(request: Request) -> Id | None:
    """The progress token of a request, or None."""
    meta = request.params.get("_meta")
    return as_id(meta.get("progressToken")) if isinstance(meta, dict) else None


def forwarded_meta(request: Request) -> bytes:
    """The client's `_meta` that is not between it and us: what an upstream may want, such as trace context."""
    meta = request.params.get("_meta")
    if not isinstance(meta, dict):
        return b""
    kept = {name: value for name, value in meta.items() if name != "progressToken" and not name.startswith(RESERVED)}
    return orjson.dumps(kept) if kept else b""


def retry(request: Request) -> Retry:
    """What the client brings when it repeats the request."""
    responses, state = request.params.get("inputResponses"), request.params.get("requestState")
    if responses is None and state is None:
        return FIRST
    if responses is not None and not isinstance(responses, dict):
        raise invalid('"inputResponses" must be an object.')
    for name, response in (responses or {}).items():
        if not isinstance(response, dict):
            raise invalid(f'"inputResponses": the answer to {name[:100]!r} must be an object.')
    if state is not None and not isinstance(state, str):
        raise invalid('"requestState" must be a string.')
    return Retry(orjson.dumps(responses or {}), state)
