"""Results of tools, held against the schema that the tool gives for them."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal

from narthex_server.tools.arguments import ArgumentSchemas
from narthex_server.tools.once import Once
from narthex_server.tools.step import Invocation, Run
from narthex_server.tools.tool import Tool, ToolEvent, ToolResult

AT_ONCE_BYTES = 32 * 1024
"""Results up to this are checked right away; larger ones in a thread."""

LARGEST = 4 * 1024 * 1024
"""Results beyond this are passed on unchecked: to parse them takes many times their size in memory."""

_log = logging.getLogger(__name__)


class ResultCheck:
    """A Step that reports structured results which do not fit, and with `refuse` makes error results of them."""

    def __init__(
        self, action: Literal["report", "refuse"], misfit: Callable[[str, str], None] = lambda tool, server: None
    ) -> None:
        """`misfit` is told of the tool and its server."""
        self._refuses = action == "refuse"
        self._misfit = misfit
        self._schemas = ArgumentSchemas("output")
        self._told = Once()

    async def around(self, call: Invocation, run: Run) -> AsyncGenerator[ToolEvent]:
        async with aclosing(run(call)) as events:
            async for event in events:
                if isinstance(event, ToolResult) and call.tool.server and call.tool.output_schema:
                    event = await self._checked(call.tool, event)
                yield event

    async def _checked(self, tool: Tool, result: ToolResult) -> ToolResult:
        if result.is_error or len(result.structured_content) > LARGEST:
            return result
        if len(result.structured_content) <= AT_ONCE_BYTES:
            problem = self._problem(tool, result.structured_content)
        else:
            problem = await asyncio.to_thread(self._problem, tool, result.structured_content)
        if not problem:
            return result
        self._misfit(tool.name, tool.server)
        if self._told.first((tool.name, tool.output_schema)):
            _log.warning("a result of tool %s does not fit its output schema: %s", tool.name, ascii(problem))
        if not self._refuses:
            return result
        text = f"the result of {tool.name} does not fit the schema that the tool gives for it: {problem}"
        return ToolResult(json.dumps([{"type": "text", "text": text}]).encode(), is_error=True)

    def _problem(self, tool: Tool, structured: bytes) -> str:
        if not structured:
            return "it has no structured content"
        schema = self._schemas.of(tool.name, tool.output_schema, tool.server)
        try:
            return "; ".join(
                f"{v.field}: {v.description}" if v.field else v.description
                for v in schema.violations(json.loads(structured))
            )
        except (ValueError, RecursionError):
            return "it is not JSON, or too deep"
