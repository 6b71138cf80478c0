"""The `read_result` tool: the model reads on in a result that was cut."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import orjson

from narthex_server.tools.arguments import ArgumentSchemas, parse_arguments
from narthex_server.tools.kept_results import PREFIX, KeptResults
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

DEFAULT_LENGTH = 4000


class ReadResultTool:
    """A NativeTool over the caller's kept results; gives at most `longest` characters at once."""

    def __init__(self, kept: KeptResults, longest: int, name: str = "read_result") -> None:
        self._kept = kept
        self._longest = longest
        self._schemas = ArgumentSchemas()
        self.tool = replace(_TOOL, name=name)

    async def call(self, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        asked = parse_arguments(arguments)
        self._schemas.of(self.tool.name, self.tool.input_schema).check(asked)
        name = asked["uri"]
        text = self._kept.read(context.principal, name if name.startswith(PREFIX) else PREFIX + name)
        start = min(asked.get("offset", 0), len(text))
        end = min(start + min(asked.get("length", DEFAULT_LENGTH), self._longest), len(text))
        rest = f"the next is at offset {end}" if end < len(text) else "this is the end"
        said = f"{text[start:end]}\n[characters {start} to {end} of {len(text)}; {rest}]"
        yield ToolResult(orjson.dumps([{"type": "text", "text": said}]))


_TOOL = Tool(
    name="read_result",
    title="Read a result",
    description="Read a part of a tool's result that was cut because it was too long",
    input_schema=orjson.dumps(
        {
            "type": "object",
            "properties": {
                "uri": {"type": "string", "description": f"the result, as the note names it ({PREFIX}...)"},
                "offset": {"type": "integer", "minimum": 0, "description": "the first character wanted; default 0"},
                "length": {"type": "integer", "minimum": 1, "description": "how many; default 4000"},
            },
            "required": ["uri"],
            "additionalProperties": False,
        }
    ),
    annotations=orjson.dumps({"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}),
)
