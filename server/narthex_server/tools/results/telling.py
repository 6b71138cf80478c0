"""What an upstream is told in a call, as a key."""

import json
from hashlib import blake2b

from narthex_server.tools.step import Invocation

MAX_BYTES = 64 * 1024
"""Arguments beyond this are not worth a key: it would take longer to make than results are kept for."""

_OF_ONE_CALL = frozenset(("progressToken", "traceparent", "tracestate", "baggage"))
"""Keys of `_meta` that name the call and say nothing of what is wanted."""


def digest(call: Invocation) -> bytes | None:
    """Equal for two calls of one tool only if their arguments, and what else the tool may go by, are the same.

    That is numbers of one type and value, whatever the order of keys and the spelling. None where there can be no key.
    """
    if len(call.raw) > MAX_BYTES:
        return None
    mcp = call.context.mcp
    told: list[object] = [call.arguments, call.context.inputs is not None]
    if (token := call.context.upstream_tokens.get(call.tool.server.lower())) is not None:
        told.append({"token": token})  # whoever shows it may see other things
    if mcp.capabilities or mcp.meta:
        told += [mcp.capabilities, {key: value for key, value in mcp.meta.items() if key not in _OF_ONE_CALL}]
    try:
        text = json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:  # infinity, of 1e999
        return None
    return blake2b(text.encode(), digest_size=32).digest()
