"""What tools gave back, as text."""

from typing import Any

import orjson
from narthex.v1 import tool_pb2


def result_text(result: tool_pb2.ToolResult) -> str:
    """The text of a result's content; what is no text appears as its JSON, and so does content-less structure."""
    try:
        texts = [_text(block) for block in orjson.loads(result.content or b"[]")]
    except (orjson.JSONDecodeError, TypeError):  # no array, or nested too deeply to be written again
        return result.content.decode("utf-8", "replace")
    return "\n".join(texts) or result.structured_content.decode("utf-8", "replace")


def _text(block: Any) -> str:
    if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
        return str(block["text"])
    return orjson.dumps(block).decode()
