"""The `generate` tool: a prompt, continued by a model of this server."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count

from narthex_server.pipelines import serving
from narthex_server.pipelines.models import Models
from narthex_server.pipelines.request import GenerateRequest
from narthex_server.tools.native.completion import (
    ANNOTATIONS,
    OUTPUT_SCHEMA,
    adapters,
    as_call,
    constraint,
    sampling,
    schema_of,
    scoring,
    stopping,
)
from narthex_server.tools.native.conversation import parsed
from narthex_server.tools.tool import CallContext, Tool, ToolEvent


class GenerateTool:
    """A NativeTool over the models that are served."""

    tool = Tool(
        name="generate",
        title="Generate",
        description="Continue a text with a language model of this server",
        input_schema=schema_of({"prompt": {"type": "string", "description": "The text to continue"}}, ["prompt"]),
        output_schema=OUTPUT_SCHEMA,
        annotations=ANNOTATIONS,
    )

    def __init__(self, models: Models) -> None:
        self._models = models
        self._numbers = count(1)  # callers may use a request id for several calls at once

    async def call(self, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        asked = parsed(arguments)
        request = GenerateRequest(
            f"{context.request_id}/generate/{next(self._numbers)}",
            asked["prompt"],
            sampling(asked),
            stopping(asked),
            adapters=adapters(asked),
            constraint=constraint(asked),
            scoring=scoring(asked),
        )
        async with (
            self._models.use(asked.get("model", "")) as model,
            aclosing(as_call(model.name, serving.generate(model).stream(request))) as events,
        ):
            async for event in events:
                yield event
