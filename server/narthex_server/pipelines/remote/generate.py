"""A prompt, continued by a remote engine."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from narthex_server.pipelines.events import Finished, GenerateEvent, Started, TextDelta
from narthex_server.pipelines.models import RemoteModel
from narthex_server.pipelines.remote.answer import answer
from narthex_server.pipelines.remote.body import completion_body
from narthex_server.pipelines.remote.turn import Turn
from narthex_server.pipelines.request import GenerateRequest


class RemoteGenerate:
    """Continues prompts with one remote model."""

    def __init__(self, model: RemoteModel) -> None:
        self._model = model

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        """As of GeneratePipeline. Errors: InvalidRequest before anything is sent; then those of the engine."""
        handle = self._model.handle
        body = completion_body(request, self._model.name, await handle.known())
        turn = Turn(handle.refusals, stops=request.stopping.stop)
        async with aclosing(answer(handle, request, "completions", body, turn)) as events:
            async for event in events:
                if isinstance(event, Started | TextDelta | Finished):
                    yield event
                if isinstance(event, Started) and request.echo and isinstance(request.prompt, str):
                    yield TextDelta(request.prompt)

    async def check(self, request: GenerateRequest) -> None:
        """As of the pipeline for models that run here, as far as the other server has said what it is."""
        completion_body(request, self._model.name, await self._model.handle.known())
