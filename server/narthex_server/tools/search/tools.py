"""Our own tools that search the catalog, and call what was found, for callers that do not read it whole."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol
from weakref import WeakKeyDictionary

import orjson
from narthex.scopes import ALL_TOOLS

from narthex_server.errors import InvalidToolArguments, Violation
from narthex_server.principal import Principal
from narthex_server.sync.async_mutex import AsyncMutex
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.offers.view import View
from narthex_server.tools.search.searching import CALL, SEARCH
from narthex_server.tools.search.tool_index import ToolIndex
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

MOST = 50
"""Tools of one answer."""


class Tools(Protocol):
    """The catalog, as far as it is needed here."""

    def view(self, principal: Principal) -> View: ...

    def list(self, principal: Principal) -> tuple[Tool, ...]: ...

    def call(self, name: str, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]: ...


class _Kept:
    """The index of one view, which is what several tenants may see, and nothing that others see beside it."""

    def __init__(self, turn: AsyncMutex) -> None:
        self.index = ToolIndex()
        self.turn = turn
        self._version = -1

    async def follow(self, view: View) -> None:
        """Brings the index up to the view; in a thread, as thousands of new tools take a while to read."""
        if (version := view.versions.tools) != self._version:
            tools = [tool for tool in view.tools.listed(ALL_TOOLS) if tool.name not in (SEARCH, CALL)]
            await asyncio.to_thread(self.index.follow, tools)
            self._version = version


class SearchTool:
    """A NativeTool that finds tools which its caller may use."""

    tool = Tool(
        name=SEARCH,
        title="Search tools",
        description=(
            "Find tools by what they do. Answers names and descriptions, the best first; "
            f"call one of them by its name, or with {CALL}"
        ),
        input_schema=orjson.dumps(
            {
                "type": "object",
                "properties": {
                    "query": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": 1000,
                        "description": "What the tool should do, in a few words",
                    },
                    "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "default": 5},
                    "server": {"type": "string", "description": "Only tools of this upstream"},
                    "schemas": {
                        "type": "boolean",
                        "default": True,
                        "description": "With the schema of each tool's arguments",
                    },
                },
                "required": ["query"],
                "additionalProperties": False,
            }
        ),
        output_schema=orjson.dumps(
            {
                "type": "object",
                "properties": {
                    "tools": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": {"type": "string"},
                                "title": {"type": "string"},
                                "description": {"type": "string"},
                                "server": {"type": "string"},
                                "input_schema": {"type": ["object", "boolean"]},
                            },
                            "required": ["name", "description"],
                        },
                    }
                },
                "required": ["tools"],
            }
        ),
        annotations=orjson.dumps({"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}),
    )

    def __init__(self, catalog: Tools, locks: Locks = UNMETERED) -> None:
        self._catalog = catalog
        self._locks = locks
        self._indexes: WeakKeyDictionary[View, _Kept] = WeakKeyDictionary()

    async def call(self, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        asked = json.loads(arguments)
        server = asked.get("server")
        view = self._catalog.view(context.principal)
        if (kept := self._indexes.get(view)) is None:
            kept = self._indexes[view] = _Kept(self._locks.async_mutex("tool_index"))
        async with kept.turn:
            await kept.follow(view)
            visible = self._catalog.list(context.principal)
            among = {tool.name for tool in visible if server is None or tool.server == server}
            found = kept.index.search(asked["query"], int(asked.get("limit", 5)), among)
        facts = orjson.dumps({"tools": [_shown(tool, asked.get("schemas", True)) for tool in found]})
        yield ToolResult(orjson.dumps([{"type": "text", "text": facts.decode()}]), facts)


class CallTool:
    """A NativeTool that calls another one as its caller would: the same steps stand around that call."""

    tool = Tool(
        name=CALL,
        title="Call a tool",
        description=f"Call a tool that {SEARCH} has found, by its name",
        input_schema=orjson.dumps(
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": f"As {SEARCH} answers it"},
                    "arguments": {"type": "object", "description": "What the tool's input_schema asks for"},
                },
                "required": ["name"],
                "additionalProperties": False,
            }
        ),
        annotations=orjson.dumps({"openWorldHint": True}),
    )

    def __init__(self, catalog: Tools) -> None:
        self._catalog = catalog

    async def call(self, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        asked = json.loads(arguments)
        name = asked["name"]
        if name == CALL:
            problem = f"is {CALL} itself; name the tool that it is to call"
            raise InvalidToolArguments(f"name {problem}", violations=(Violation("name", problem),))
        inner = json.dumps(asked.get("arguments", {}), separators=(",", ":")).encode()
        async with aclosing(self._catalog.call(name, inner, context)) as events:
            async for event in events:
                yield event


def _shown(tool: Tool, schemas: bool) -> dict[str, object]:
    shown: dict[str, object] = {"name": tool.name, "description": tool.description}
    if tool.title:
        shown["title"] = tool.title
    if tool.server:
        shown["server"] = tool.server
    if schemas:
        shown["input_schema"] = orjson.Fragment(tool.input_schema or b"{}")
    return shown
