"""What every request of a stateless version brings with it, in `_meta` and headers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from narthex_bridge.protocol import headers, jsonrpc
from narthex_bridge.protocol.eras import ERAS, VERSIONS, Era
from narthex_bridge.protocol.jsonrpc import Message, Notification, Request, RpcError
from narthex_bridge.protocol.methods import LOG_LEVELS, STATELESS_ONLY
from narthex_bridge.protocol.params import RESERVED, invalid

VERSION = RESERVED + "protocolVersion"
CAPABILITIES = RESERVED + "clientCapabilities"
LOG_LEVEL = RESERVED + "logLevel"

STATUSES = {
    jsonrpc.PARSE_ERROR: 400,
    jsonrpc.INVALID_REQUEST: 400,
    jsonrpc.INVALID_PARAMS: 400,
    jsonrpc.HEADER_MISMATCH: 400,
    jsonrpc.MISSING_CAPABILITY: 400,
    jsonrpc.UNSUPPORTED_VERSION: 400,
    jsonrpc.METHOD_NOT_FOUND: 404,
}
"""HTTP statuses of JSON-RPC errors in these versions; all others are 200."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The era that a request is in, what its client can do (a JSON object), and the log messages it wants."""

    era: Era
    capabilities: bytes
    log_level: str | None


def stateless(given: Mapping[str, str], messages: Sequence[Message]) -> bool:
    """Whether a POST belongs to a version without sessions: its `_meta` or header says so, or only those know it."""
    for message in messages:
        if not isinstance(message, Request | Notification):
            return False
        meta = message.params.get("_meta")
        if message.method in STATELESS_ONLY or (isinstance(meta, dict) and VERSION in meta):
            return True
        if message.method == "initialize":  # a client's first attempt may fail, and leave the header behind
            return False
    era = ERAS.get(given.get(headers.VERSION, ""))
    return era is not None and era.stateless


def read(request: Request, given: Mapping[str, str] | None) -> Envelope:
    """The envelope of a request that came with these headers (None: over a transport that has none).

    Raises RpcError: what is missing, differs, or is a version that is not spoken here.
    """
    meta = request.params.get("_meta")
    if not isinstance(meta, dict):
        raise invalid(f'"_meta" is missing; it brings {VERSION} and {CAPABILITIES}.')
    version, capabilities, level = meta.get(VERSION), meta.get(CAPABILITIES), meta.get(LOG_LEVEL)
    if not isinstance(version, str):
        raise invalid(f'"_meta" must have {VERSION}, a string.')
    if not isinstance(capabilities, dict):
        raise invalid(f'"_meta" must have {CAPABILITIES}, an object.')
    if given is not None:
        headers.check(given, request, version)
    era = ERAS.get(version)
    if era is None or not era.stateless:
        raise unsupported_version(version)
    if level is not None and level not in LOG_LEVELS:
        raise invalid(f"{LOG_LEVEL} must be one of {', '.join(LOG_LEVELS)}.")
    return Envelope(era, orjson.dumps(capabilities), level)


def unsupported_version(wanted: str) -> RpcError:
    """The error that names the versions spoken here, so that a client can choose one of them."""
    return RpcError(
        jsonrpc.UNSUPPORTED_VERSION,
        "This protocol version is not supported.",
        {"supported": list(VERSIONS), "requested": wanted[:100]},
    )
