"""MCP's objects as ours; JSON keeps the order of its keys and the size of its integers."""

from typing import Any

import mcp_types as types

from narthex_server.tools.exact_json import Dumped
from narthex_server.tools.exact_json import dump as dump
from narthex_server.tools.tool import Tool, ToolResult

RESERVED = "io.modelcontextprotocol/"
"""How the keys of `_meta` begin that the protocol itself uses, on each of its hops."""


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
        icons=dump([icon.model_dump(by_alias=True, exclude_none=True) for icon in tool.icons]) if tool.icons else b"",
        meta=convert_meta(tool.meta),
    )


def convert_result(raw: dict[str, Any]) -> ToolResult:
    """The result of tools/call as it came."""
    structured = raw.get("structuredContent")
    return ToolResult(
        content=_dumped(raw.get("content", [])),
        structured_content=b"" if structured is None else _dumped(structured),
        is_error=raw.get("isError") is True,
        meta=convert_meta(raw.get("_meta")),
    )


def _dumped(value: Any) -> bytes:
    return value.raw if isinstance(value, Dumped) else dump(value)


def convert_meta(meta: Any) -> bytes:
    """The `_meta` of what an upstream sends, without what is between it and us."""
    own = {k: v for k, v in meta.items() if not k.startswith(RESERVED)} if isinstance(meta, dict) else {}
    return dump(own) if own else b""


def error_result(text: str, faulted: bool = False) -> ToolResult:
    return ToolResult(dump([{"type": "text", "text": text}]), is_error=True, faulted=faulted)
