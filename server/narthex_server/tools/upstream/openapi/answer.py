"""From an HTTP response to the result of a tool."""

import base64
import json
from typing import Any

from narthex_server.tools.tool import ToolResult
from narthex_server.tools.upstream.convert import dump

MOST_BYTES = 8 * 1024 * 1024
"""Of a body that becomes a result; a larger one is a failure that says so."""

MOST_ERROR = 4096
"""Characters of the body that a failure repeats."""

_TEXTS = ("application/xml", "application/javascript", "application/x-www-form-urlencoded", "application/yaml")


def result_of(status: int, phrase: str, media_type: str, body: bytes, location: str = "") -> ToolResult:
    """Good answers as content, JSON objects also structured; others with `is_error` and what they say."""
    kind = media_type.partition(";")[0].strip().lower()
    if 200 <= status < 300:
        return _good(status, kind, body)
    head = f"HTTP {status} {phrase}".strip()
    if location:
        head += f": a redirect to {location[:500]}, which is not followed"
    said = body.decode("utf-8", "replace") if _is_text(kind) or not kind else ""
    if len(said) > MOST_ERROR:
        said = f"{said[:MOST_ERROR]} … (cut; {len(body)} bytes)"
    return _failure(f"{head}\n{said}".strip())


def too_large(status: int) -> ToolResult:
    return _failure(f"HTTP {status}: the answer has more than {MOST_BYTES} bytes and is left out; ask for less")


def _good(status: int, kind: str, body: bytes) -> ToolResult:
    if not body:
        return ToolResult(dump([_text(f"HTTP {status}, without a body")]))
    if kind == "application/json" or kind.endswith("+json"):
        try:
            value = json.loads(body)
            structured = dump(value) if isinstance(value, dict) else b""
        except (ValueError, RecursionError):
            return _failure(f"HTTP {status}: the answer says that it is JSON, and is not")
        return ToolResult(dump([_text(body.decode("utf-8", "replace"))]), structured)
    data = base64.b64encode(body).decode
    match kind.partition("/")[0]:
        case "image" | "audio" as media if kind != "image/svg+xml":
            return ToolResult(dump([{"type": media, "data": data(), "mimeType": kind}]))
    if _is_text(kind):
        return ToolResult(dump([_text(body.decode("utf-8", "replace"))]))
    blob = {"uri": "data:,", "mimeType": kind or "application/octet-stream", "blob": data()}
    return ToolResult(dump([{"type": "resource", "resource": blob}]))


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind in _TEXTS or kind.endswith(("json", "+xml"))


def _failure(text: str) -> ToolResult:
    return ToolResult(dump([_text(text)]), is_error=True)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
