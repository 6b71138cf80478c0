"""The `list_models` tool: what this server can answer with."""

from collections.abc import AsyncGenerator

import orjson

from narthex_server.pipelines.models import Models
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

_MODEL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "default": {"type": "boolean"},
        "max_context": {"type": "integer", "description": "Tokens that prompt and answer may have together"},
        "model_type": {"type": "string"},
        "parameters": {"type": "integer"},
        "quantization": {"type": "string"},
        "adapters": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["id", "default", "max_context"],
}


class ListModelsTool:
    """A NativeTool over the models that are served; with none it answers an empty list."""

    tool = Tool(
        name="list_models",
        title="List models",
        description="List the language models of this server",
        input_schema=orjson.dumps({"type": "object", "properties": {}, "additionalProperties": False}),
        output_schema=orjson.dumps(
            {
                "type": "object",
                "properties": {"models": {"type": "array", "items": _MODEL}},
                "required": ["models"],
            }
        ),
        annotations=orjson.dumps({"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}),
    )

    def __init__(self, models: Models) -> None:
        self._models = models

    async def call(self, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        listed = [
            {
                "id": model.name,
                "default": model.name == self._models.default,
                "max_context": model.max_context,
                "model_type": model.info.model_type,
                "parameters": model.info.parameters,
                "quantization": model.info.quantization,
                "adapters": [adapter.name for adapter in model.handle.adapters],
            }
            for model in self._models
        ]
        facts = orjson.dumps({"models": listed})
        yield ToolResult(orjson.dumps([{"type": "text", "text": facts.decode()}]), facts)
