"""Turns of which only the first call counts."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from narthex_server.pipelines.events import ChatEvent, ToolCallStarted
from narthex_server.pipelines.request import ChatRequest
from narthex_server.pipelines.serving import Chats
from narthex_server.text.messages import ToolCall


class FirstCall:
    """Chats as another pipeline does, without the calls of a turn after its first."""

    def __init__(self, pipeline: Chats) -> None:
        self._pipeline = pipeline

    @property
    def takes_tools(self) -> bool:
        """As the other pipeline."""
        return self._pipeline.takes_tools

    async def check(self, request: ChatRequest) -> None:
        """As the other pipeline."""
        await self._pipeline.check(request)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatEvent]:
        """As the other pipeline."""
        called = False
        async with aclosing(self._pipeline.stream(request)) as events:
            async for event in events:
                match event:
                    case ToolCallStarted() | ToolCall() if called:
                        continue
                    case ToolCall():
                        called = True
                yield event
