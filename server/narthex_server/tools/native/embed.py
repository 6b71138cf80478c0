"""The `embed` tool: vectors of texts."""

from collections.abc import AsyncGenerator

import orjson

from narthex_server.pipelines import serving
from narthex_server.pipelines.embed import MAX_INPUTS, EmbedRequest
from narthex_server.pipelines.models import Models
from narthex_server.tools.native.conversation import parsed
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

_TEXT = {"type": "string", "minLength": 1}


class EmbedTool:
    """A NativeTool over the embedders that are served."""

    tool = Tool(
        name="embed",
        title="Embed",
        description="Make vectors of texts with an embedding model of this server: near ones mean alike",
        input_schema=orjson.dumps(
            {
                "type": "object",
                "properties": {
                    "input": {
                        "anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_INPUTS}],
                        "description": "A text, or several",
                    },
                    "model": {"type": "string", "description": "Which model; the default one where none is given"},
                    "instruction": {"type": "string", "description": "Put before every text; list_models has prompts"},
                    "dimensions": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "Only so many numbers of each vector, for models that allow it",
                    },
                    "truncate": {
                        "type": "boolean",
                        "description": "Cut texts that are too long rather than refuse them",
                    },
                },
                "required": ["input"],
                "additionalProperties": False,
            }
        ),
        output_schema=orjson.dumps(
            {
                "type": "object",
                "properties": {
                    "model": {"type": "string"},
                    "embeddings": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                    "dimensions": {"type": "integer"},
                    "tokens": {"type": "integer", "description": "Of all texts together"},
                },
                "required": ["model", "embeddings", "dimensions", "tokens"],
            }
        ),
        annotations=orjson.dumps({"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}),
    )

    def __init__(self, models: Models) -> None:
        self._models = models

    async def call(self, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        asked = parsed(arguments)
        texts = asked["input"]
        request = EmbedRequest(
            inputs=(texts,) if isinstance(texts, str) else tuple(texts),
            instruction=asked.get("instruction", ""),
            dimensions=asked.get("dimensions", 0),
            truncate=asked.get("truncate", False),
        )
        async with self._models.use_embedder(asked.get("model", "")) as model:
            made = await serving.embed(model).run(request)
        facts = orjson.dumps(
            {
                "model": model.name,
                "embeddings": list(made.vectors),
                "dimensions": made.vectors.shape[1],
                "tokens": made.total,
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        yield ToolResult(orjson.dumps([{"type": "text", "text": facts.decode()}]), facts)
