"""A prompt, continued."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace

from narthex_server.engine.request import EngineRequest
from narthex_server.pipelines.completion import Piece, Scores, complete, prepare
from narthex_server.pipelines.constraining import text_grammar
from narthex_server.pipelines.events import Finished, GenerateEvent, Started, TextDelta
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import GenerateRequest
from narthex_server.pipelines.tokens import encode
from narthex_server.text.detokenize import Detokenizer


class GeneratePipeline:
    """Continues prompts with one model."""

    def __init__(self, model: TextModel) -> None:
        self.model = model

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        """Yields Started, TextDelta, then one Finished; closing it frees the engine's slot.

        Errors: InvalidRequest and ContextOverflow before the first event; then those of the engine.
        """
        model = self.model
        engine_request = await self._prepared(request)
        ids = engine_request.prompt
        if engine_request.prompt_logprobs is None:
            yield Started(ids)
            for event in self._echo(request, ids):
                yield event
        tokenizer = model.text.tokenizer
        keep = frozenset() if request.skip_special else tokenizer.special_ids
        detokenizer = Detokenizer(tokenizer, keep, starts_text=False)
        async with aclosing(complete(model, engine_request, request.stopping, detokenizer)) as pieces:
            waiting = TextDelta("")  # tokens whose text is not whole, or may become a stop string
            async for piece in pieces:
                match piece:
                    case Scores(logprobs):
                        yield Started(ids, logprobs)
                        for event in self._echo(request, ids):
                            yield event
                    case Finished():
                        if waiting.token_ids:
                            yield waiting
                        yield piece
                    case Piece(text, token_ids, logprobs):
                        waiting = TextDelta(text, waiting.token_ids + token_ids, waiting.logprobs + logprobs)
                        if text:
                            yield waiting
                            waiting = TextDelta("")

    async def check(self, request: GenerateRequest) -> None:
        """Raises what `stream` would before its first event, as far as that is up to the request."""
        self.model.handle.check_content(await self._prepared(request))

    async def _prepared(self, request: GenerateRequest) -> EngineRequest:
        model, prompt = self.model, request.prompt
        engine_request = prepare(model, request, await encode(model, prompt) if isinstance(prompt, str) else prompt)
        if request.constraint is not None:
            grammar = await text_grammar(model, request.constraint, request.stopping)
            engine_request = replace(engine_request, grammar=grammar)
        return engine_request

    def _echo(self, request: GenerateRequest, ids: tuple[int, ...]) -> Iterator[TextDelta]:
        """The prompt's text as it was given, or as its tokens say."""
        if request.echo:
            prompt = request.prompt
            tokenizer = self.model.text.tokenizer
            yield TextDelta(prompt if isinstance(prompt, str) else tokenizer.decode(ids, request.skip_special))
