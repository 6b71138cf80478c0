"""Results as each era wants them."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import orjson
from orjson import Fragment

from narthex_bridge.protocol.eras import VERSIONS, Era
from narthex_bridge.protocol.events import Contents, InputRequired, Prompted, Result, Suggestions
from narthex_bridge.protocol.params import RESERVED

LIST_TTL_MS = 5_000
"""How long a client may keep a list; a change is told to those who listen."""

SUBSCRIPTION = RESERVED + "subscriptionId"
_SERVER = RESERVED + "serverInfo"
_INFO = {"name": "narthex", "version": importlib.metadata.version("narthex")}
_TITLED = {**_INFO, "title": "narthex"}

Members = dict[str, object]


def complete(era: Era, members: Members, meta: bytes = b"", ttl_ms: int | None = None) -> Members:
    """A finished result; `meta` is the upstream's `_meta`, `ttl_ms` is set for what clients may keep."""
    if not era.stateless:
        return {**members, "_meta": Fragment(meta)} if meta else members
    return {**_typed("complete", members, meta), **_cached(ttl_ms)}


def initialized(era: Era) -> Members:
    """The answer to initialize."""
    return {
        "protocolVersion": era.version,
        "capabilities": _capabilities(era),
        "serverInfo": _TITLED if era.titles else _INFO,
    }


def discovered(era: Era) -> Members:
    """The answer to server/discover."""
    members: Members = {"supportedVersions": list(VERSIONS), "capabilities": _capabilities(era), "serverInfo": _TITLED}
    return complete(era, members, ttl_ms=LIST_TTL_MS)


def called(era: Era, result: Result) -> Members:
    """The answer to tools/call."""
    members: Members = {"content": Fragment(result.content or b"[]"), "isError": result.is_error}
    # Before the stateless versions it has to be an object.
    if result.structured and era.structured and (era.stateless or result.structured[:1] == b"{"):
        members["structuredContent"] = Fragment(result.structured)
    return complete(era, members, result.meta)


def read(era: Era, contents: Contents) -> Members:
    """The answer to resources/read."""
    return complete(era, {"contents": [Fragment(part) for part in contents.parts]}, contents.meta, contents.ttl_ms)


def prompted(era: Era, prompt: Prompted) -> Members:
    """The answer to prompts/get."""
    messages = [{"role": role, "content": Fragment(content)} for role, content in prompt.messages]
    members: Members = {"messages": messages} | ({"description": prompt.description} if prompt.description else {})
    return complete(era, members, prompt.meta)


def suggested(era: Era, suggestions: Suggestions) -> Members:
    """The answer to completion/complete."""
    completion: Members = {"values": list(suggestions.values), "hasMore": suggestions.has_more}
    if suggestions.total is not None:
        completion["total"] = suggestions.total
    return complete(era, {"completion": completion})


def input_required(asked: InputRequired, state: str) -> Members:
    """The answer that wants something first, in a stateless era."""
    requests = {
        request.id: {"method": request.method, "params": Fragment(request.params or b"{}")}
        for request in asked.requests
    }
    members: Members = {"requestState": state} | ({"inputRequests": requests} if requests else {})
    return _typed("input_required", members, b"")


def listened(request_id: object) -> Members:
    """The answer to subscriptions/listen, when the server ends it."""
    return _typed("complete", {}, orjson.dumps({SUBSCRIPTION: request_id}))


def _typed(kind: str, members: Members, meta: bytes) -> Members:
    own: dict[str, Any] = {_SERVER: _INFO}
    return {"resultType": kind, **members, "_meta": {**orjson.loads(meta), **own} if meta else own}


def _cached(ttl_ms: int | None) -> Mapping[str, object]:
    # Private: what is listed and read may differ between keys.
    return {} if ttl_ms is None else {"ttlMs": ttl_ms, "cacheScope": "private"}


def _capabilities(era: Era) -> Members:
    changing: Mapping[str, bool] = {"listChanged": True}
    found: Members = {
        "tools": changing,
        "resources": {**changing, "subscribe": True},
        "prompts": changing,
        "logging": {},
    }
    return found | ({"completions": {}} if era.completions else {})
