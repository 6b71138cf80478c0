"""The `chat` tool: a conversation, answered by a model of this server."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count

from narthex_server.pipelines import serving
from narthex_server.pipelines.models import Models
from narthex_server.pipelines.request import ChatRequest
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
from narthex_server.tools.native.conversation import MESSAGES, messages, parsed
from narthex_server.tools.tool import CallContext, Tool, ToolEvent


class ChatTool:
    """A NativeTool over the models that are served."""

    tool = Tool(
        name="chat",
        title="Chat",
        description="Answer a conversation with a language model of this server",
        input_schema=schema_of({"messages": MESSAGES}, ["messages"]),
        output_schema=OUTPUT_SCHEMA,
        annotations=ANNOTATIONS,
    )

    def __init__(self, models: Models) -> None:
        self._models = models
        self._numbers = count(1)  # callers may use a request id for several calls at once

    async def call(self, arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
        asked = parsed(arguments)
        request = ChatRequest(
            request_id=f"{context.request_id}/chat/{next(self._numbers)}",
            messages=messages(asked["messages"]),
            sampling=sampling(asked),
            stopping=stopping(asked),
            adapters=adapters(asked),
            constraint=constraint(asked),
            scoring=scoring(asked),
        )
        async with (
            self._models.use(asked.get("model", "")) as model,
            aclosing(as_call(model.name, serving.chat(model).stream(request))) as events,
        ):
            async for event in events:
                yield event
