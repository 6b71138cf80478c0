"""What is kept of a call's arguments."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from narthex_server.audit.canonical import canonical
from narthex_server.audit.redaction import Redaction

Keeping = Literal["off", "digest", "redacted", "full"]

MAX_KEPT = 64 * 1024
"""Bytes of arguments in a record; larger ones are there by their digest alone."""


class Arguments:
    """Makes of arguments the members of a record: `digest` (SHA-256 of their canonical JSON), and `arguments`.

    What is no JSON has the digest of its bytes and is not kept.
    """

    def __init__(self, keeping: Keeping, redaction: Redaction) -> None:
        self._keeping = keeping
        self._redaction = redaction

    def members(self, arguments: bytes | Mapping[str, str]) -> dict[str, Any]:
        if self._keeping == "off":
            return {}
        try:
            value = json.loads(arguments or b"{}") if isinstance(arguments, bytes) else dict(arguments)
            spelling = canonical(value)
        except (ValueError, RecursionError):
            return {"digest": _digest(arguments if isinstance(arguments, bytes) else repr(arguments).encode())}
        made: dict[str, Any] = {"digest": _digest(spelling)}
        if self._keeping != "digest" and len(spelling) <= MAX_KEPT:
            made["arguments"] = value if self._keeping == "full" else self._redaction.of(value)
        return made

    def text(self, text: str) -> str:
        """What callers make up beside arguments, without what looks like a credential where not all is kept."""
        return text if self._keeping == "full" else self._redaction.text(text)


def _digest(spelling: bytes) -> str:
    return f"sha256:{hashlib.sha256(spelling).hexdigest()}"
