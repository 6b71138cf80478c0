"""What tools gave back, as text."""

from typing import Any

import orjson
from narthex.v1 import tool_pb2


def result_text(result: tool_pb2.ToolResult) -> str:
    """The text of a result's content; what is no text appears as its JSON, and so does content-less structure."""
    try:
        blocks: list[Any] = list(orjson.loads(result.content or b"[]"))
    except (orjson.JSONDecodeError, TypeError):
        return result.content.decode("utf-8", "replace")
    texts = [
        str(block["text"])
        if isinstance(block, dict) and block.get("type") == "text" and "text" in block
        else orjson.dumps(block).decode()
        for block in blocks
    ]
    return "\n".join(texts) or result.structured_content.decode("utf-8", "replace")
