"""The HTTP headers that mirror a request of 2026-07-28 for whoever routes it (SEP-2243)."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.jsonrpc import Request, RpcError

VERSION, METHOD, NAME, PARAMETER = "mcp-protocol-version", "mcp-method", "mcp-name", "mcp-param-"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

_ENCODED = re.compile(r"=\?base64\?(.*)\?=")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MIRRORED = frozenset({"string", "integer", "boolean"})
_ANNOTATION = "x-mcp-header"

Path = tuple[str, ...]


def check(headers: Mapping[str, str], request: Request, version: object) -> None:
    """Raises RpcError where a header is missing or says something else than the body."""
    _same("MCP-Protocol-Version", headers.get(VERSION), version)
    _same("Mcp-Method", headers.get(METHOD), request.method)
    if (member := NAMED.get(request.method)) is not None:
        _same("Mcp-Name", decode(headers.get(NAME)), request.params.get(member))


def mirrored(schema: bytes) -> Mapping[Path, str]:
    """The parameters that a tool's schema wants in headers: the lower-case end of `Mcp-Param-*` by where the value is.

    Annotations that break the rules (no token, not a primitive, not plain properties) count as none: clients drop such
    tools.
    """
    if _ANNOTATION.encode() not in schema:
        return {}
    return {path: name.lower() for path, name in _annotated(orjson.loads(schema), ())}


def check_parameters(headers: Mapping[str, str], wanted: Mapping[Path, str], arguments: Mapping[str, Any]) -> None:
    """Raises RpcError where an `Mcp-Param-*` header is not what the arguments say."""
    for path, name in wanted.items():
        value: Any = arguments
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        given = headers.get(PARAMETER + name)
        if value is None and given is None:
            continue
        if value is None or given is None or not _equal(decode(given), value):
            raise _mismatch(f"Mcp-Param-{name}")


def decode(value: str | None) -> str | None:
    """What a header says, its base64 form undone; None where that is broken, so that it equals nothing."""
    encoded = _ENCODED.fullmatch(value or "")
    if encoded is None:
        return value
    try:
        raw = base64.b64decode(encoded[1], validate=True)
        return raw.decode() if base64.b64encode(raw).decode() == encoded[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _same(name: str, said: str | None, meant: object) -> None:
    if said != meant:
        raise _mismatch(name)


def _mismatch(name: str) -> RpcError:
    return RpcError(jsonrpc.HEADER_MISMATCH, f"Header mismatch: {name} is missing or not what the body says.")


def _equal(said: str | None, meant: Any) -> bool:
    if said is None:
        return False
    if isinstance(meant, bool):
        return said == ("true" if meant else "false")
    if isinstance(meant, int):
        try:
            return float(said) == meant
        except (ValueError, OverflowError):
            return False
    return isinstance(meant, str) and said == meant


def _annotated(schema: Any, path: Path) -> Iterator[tuple[Path, str]]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, child in (properties if isinstance(properties, dict) else {}).items():
        if not isinstance(child, dict):
            continue
        wanted = child.get(_ANNOTATION)
        if isinstance(wanted, str) and _TOKEN.fullmatch(wanted) and child.get("type") in _MIRRORED:
            yield (*path, name), wanted
        yield from _annotated(child, (*path, name))
