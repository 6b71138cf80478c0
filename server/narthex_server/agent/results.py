"""Tool results as text that a model reads."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from narthex_server.tools.tool import ToolResult

log = logging.getLogger(__name__)


def result_text(result: ToolResult) -> str:
    """The text of the content blocks, one per line; `Error: …` for a failed call, a short note for what is no text."""
    try:
        blocks = json.loads(result.content or b"[]")
    except (ValueError, RecursionError):
        blocks = None
    if not isinstance(blocks, list):
        log.warning("a tool's content is not a JSON array; the model gets it as it is")
        text = result.content.decode("utf-8", "replace")
    else:
        text = "\n".join(_block_text(block) for block in blocks if isinstance(block, dict))
    if not text and result.structured_content:
        text = result.structured_content.decode("utf-8", "replace")
    return f"Error: {text or 'the tool failed without saying why'}" if result.is_error else text


def error_result(message: str) -> ToolResult:
    """The result of a call that could not be made or did not end well."""
    return ToolResult(json.dumps([{"type": "text", "text": message}], ensure_ascii=False).encode(), is_error=True)


def _block_text(block: Mapping[str, Any]) -> str:
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "resource", "resource": {"uri": uri}} | {"type": "resource_link", "uri": uri}:
            return f"[resource {uri}]"
        case {"type": kind, "mimeType": mime, "data": str(data)}:
            return f"[{kind} {mime}, {len(data) * 3 // 4} bytes]"
        case {"type": kind, "mimeType": mime}:
            return f"[{kind} {mime}]"
        case _:
            return f"[{block.get('type', 'unknown content')}]"
