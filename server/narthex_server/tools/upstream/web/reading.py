"""JSON documents of authorization servers: small, or refused."""

import json
from typing import Any

import httpx2

MOST_BYTES = 256 * 1024


async def read_json(response: httpx2.Response) -> dict[str, Any] | None:
    """The object in a streamed body; None where there is none, or more than an honest server sends."""
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > MOST_BYTES:
            return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
