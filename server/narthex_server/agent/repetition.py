"""A model that does the same again and again, and learns nothing from it."""

import json
from hashlib import blake2b

from narthex_server.text.messages import ToolCall
from narthex_server.tools.tool import ToolResult


class Repetition:
    """Counts equal calls with equal results, one after the other; `told` 0 never minds them."""

    def __init__(self, told: int) -> None:
        self._told = told
        self._last: dict[bytes, tuple[bytes, int]] = {}

    def note(self, call: ToolCall, result: ToolResult) -> str:
        """What to tell the model about this result, or nothing."""
        result_digest = _digest(result.content, result.structured_content, b"%d" % result.is_error)
        key = _digest(call.name.encode(), _canonical(call.arguments))
        before, times = self._last.get(key, (b"", 0))
        times = times + 1 if before == result_digest else 1
        self._last[key] = result_digest, times
        if not self._told or times < self._told:
            return ""
        return f"[You have made this very call {times} times, with this very result. Do something else, or answer.]"

    @property
    def endless(self) -> bool:
        """Whether the model was told often enough."""
        return bool(self._told) and any(times >= 2 * self._told for _, times in self._last.values())


def _canonical(arguments: str) -> bytes:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True).encode()
    except (ValueError, RecursionError):
        return arguments.encode("utf-8", "replace")


def _digest(*parts: bytes) -> bytes:
    made = blake2b(digest_size=16)
    for part in parts:
        made.update(b"%d:" % len(part) + part)
    return made.digest()
