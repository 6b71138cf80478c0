"""MCP's objects as ours; JSON keeps the order of its keys and the size of its integers."""

import json
from typing import Any

import mcp_types as types
import orjson

from narthex_server.tools.tool import Tool, ToolResult


def dump(value: Any) -> bytes:
    """Compact UTF-8 JSON of what was parsed from JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits and lone surrogates, which JSON allows
        return json.dumps(value, separators=(",", ":")).encode()


def convert_tool(tool: types.Tool) -> Tool:
    """The tool as listed, under its server's own name for it."""
    annotations = tool.annotations
    return Tool(
        name=tool.name,
        title=tool.title or (annotations.title if annotations else None) or "",
        description=tool.description or "",
        input_schema=dump(tool.input_schema),
        output_schema=dump(tool.output_schema) if tool.output_schema else b"",
        annotations=dump(annotations.model_dump(by_alias=True, exclude_none=True)) if annotations else b"",
    )


def convert_result(raw: dict[str, Any]) -> ToolResult:
    """The result of tools/call as it came."""
    if raw.get("resultType") == "input_required":
        return error_result("the tool asks its caller for input, which this gateway cannot pass on yet")
    structured = raw.get("structuredContent")
    return ToolResult(
        content=dump(raw.get("content", [])),
        structured_content=b"" if structured is None else dump(structured),
        is_error=raw.get("isError") is True,
    )


def error_result(text: str) -> ToolResult:
    return ToolResult(dump([{"type": "text", "text": text}]), is_error=True)
