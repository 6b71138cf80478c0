"""A conversation, continued by a remote engine."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from narthex_server.pipelines.events import ChatEvent
from narthex_server.pipelines.models import RemoteModel
from narthex_server.pipelines.remote.answer import answer
from narthex_server.pipelines.remote.body import chat_body
from narthex_server.pipelines.remote.turn import Turn
from narthex_server.pipelines.request import ChatRequest


class RemoteChat:
    """Chats with one remote model."""

    takes_tools = True

    def __init__(self, model: RemoteModel) -> None:
        self._model = model

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatEvent]:
        """As of ChatPipeline. Errors: InvalidRequest before anything is sent; then those of the engine."""
        handle = self._model.handle
        body = chat_body(request, self._model.name, await handle.known())
        turn = Turn(handle.refusals, frozenset(tool.name for tool in request.tools), request.stopping.stop)
        async with aclosing(answer(handle, request, "chat/completions", body, turn)) as events:
            async for event in events:
                yield event

    async def check(self, request: ChatRequest) -> None:
        """As of the pipeline for models that run here, as far as the other server has said what it is."""
        chat_body(request, self._model.name, await self._model.handle.known())
