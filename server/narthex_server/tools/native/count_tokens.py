"""The `count_tokens` tool: how much of a model's context a text or a conversation takes."""

from collections.abc import AsyncGenerator
from typing import Any

import orjson

from narthex_server.pipelines import serving
from narthex_server.pipelines.models import AnyText, Models
from narthex_server.pipelines.request import ChatRequest
from narthex_server.tools.native.conversation import MESSAGES, messages, parsed
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult


class CountTokensTool:
    """A NativeTool over the models that are served."""

    tool = Tool(
        name="count_tokens",
        title="Count tokens",
        description="Count the tokens of a text or a conversation as a model of this server sees them",
        input_schema=orjson.dumps(
            {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "messages": MESSAGES,
                    "model": {"type": "string", "description": "Which model; the default one where none is given"},
                },
                "oneOf": [{"required": ["text"]}, {"required": ["messages"]}],
                "additionalProperties": False,
            }
        ),
        output_schema=orjson.dumps(
            {
                "type": "object",
                "properties": {
                    "model": {"type": "string"},
                    "tokens": {"type": "integer"},
                    "max_context": {"type": "integer"},
                },
                "required": ["model", "tokens", "max_context"],
            }
        ),
        annotations=orjson.dumps({"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}),
    )

    def __init__(self, models: Models) -> None:
        self._models = models

    async def call(self, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        asked = parsed(arguments)
        model = self._models.get(asked.get("model", ""))
        count = len(await _ids(model, asked, context.request_id))
        facts = orjson.dumps({"model": model.name, "tokens": count, "max_context": model.max_context})
        yield ToolResult(orjson.dumps([{"type": "text", "text": facts.decode()}]), facts)


async def _ids(model: AnyText, asked: dict[str, Any], request_id: str) -> tuple[int, ...]:
    if "text" in asked:
        return await serving.tokenize(model).encode(asked["text"])
    return await serving.tokenize(model).encode_chat(ChatRequest(request_id, messages(asked["messages"])))
