"""Tools as MCP clients read them."""

from collections.abc import Iterable

import orjson
from orjson import Fragment

from narthex_bridge.protocol.eras import Era
from narthex_bridge.protocol.events import Tool


def page(tools: Iterable[Tool], cursor: str, era: Era) -> bytes:
    """The result of tools/list as JSON; `cursor` names the next page, empty at the end."""
    value: dict[str, object] = {"tools": [_tool(tool, era) for tool in tools]}
    if cursor:
        value["nextCursor"] = cursor
    return orjson.dumps(value)


def _tool(tool: Tool, era: Era) -> dict[str, object]:
    value: dict[str, object] = {"name": tool.name}
    if tool.title and era.titles:
        value["title"] = tool.title
    if tool.description:
        value["description"] = tool.description
    value["inputSchema"] = Fragment(tool.input_schema or b'{"type":"object"}')
    if tool.output_schema and era.structured:
        value["outputSchema"] = Fragment(tool.output_schema)
    if tool.annotations and era.annotations:
        value["annotations"] = Fragment(tool.annotations)
    return value
