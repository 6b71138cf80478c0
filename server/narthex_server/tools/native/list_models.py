"""The `list_models` tool: what this server can answer with."""

from collections.abc import AsyncGenerator

import orjson

from narthex_server.pipelines.models import EmbedModel, Kind, Model, Models, TextModel
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

_MODEL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "default": {"type": "boolean"},
        "kind": {"enum": ["text", "embedding"]},
        "max_context": {"type": "integer", "description": "Tokens that prompt and answer, or an input, may have"},
        "model_type": {"type": "string"},
        "parameters": {"type": "integer"},
        "quantization": {"type": "string"},
        "dimensions": {"type": "integer", "description": "Numbers of an embedding"},
        "prompts": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Instructions to embed with, by what they are for",
        },
        "adapters": {"type": "array", "items": {"type": "string"}},
        "remote": {"type": "boolean", "description": "Whether another server runs it; what is not known of it is 0"},
    },
    "required": ["id", "default", "kind", "max_context"],
}


class ListModelsTool:
    """A NativeTool over the models that are served; with none it answers an empty list."""

    tool = Tool(
        name="list_models",
        title="List models",
        description="List the language and embedding models of this server",
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
        facts = orjson.dumps({"models": [self._listed(model) for model in self._models]})
        yield ToolResult(orjson.dumps([{"type": "text", "text": facts.decode()}]), facts)

    def _listed(self, model: Model) -> dict[str, object]:
        facts = {
            "id": model.name,
            "default": self._models.is_default(model),
            "max_context": model.max_context,
            "model_type": model.info.model_type,
            "parameters": model.info.parameters,
            "quantization": model.info.quantization,
        }
        match model:
            case EmbedModel():
                own = {"kind": "embedding", "dimensions": model.dimensions, "prompts": dict(model.prompts)}
            case TextModel():
                own = {"kind": "text", "adapters": [adapter.name for adapter in model.handle.adapters]}
            case _:
                own = {"kind": "text" if model.kind is Kind.TEXT else "embedding", "remote": True}
        return facts | own
