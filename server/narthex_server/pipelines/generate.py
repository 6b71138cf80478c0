"""A prompt, continued."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from narthex_server.pipelines.completion import complete, prepare
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
        model, prompt = self.model, request.prompt
        ids = await encode(model, prompt) if isinstance(prompt, str) else prompt
        engine_request = prepare(model, request, ids)
        if request.constraint is not None:
            grammar = await text_grammar(model, request.constraint, request.stopping)
            engine_request = replace(engine_request, grammar=grammar)
        yield Started(ids)
        tokenizer = model.text.tokenizer
        keep = frozenset() if request.skip_special else tokenizer.special_ids
        detokenizer = Detokenizer(tokenizer, keep, starts_text=False)
        async with aclosing(complete(model, engine_request, request.stopping, detokenizer)) as pieces:
            waiting: tuple[int, ...] = ()  # tokens whose text is not whole, or may become a stop string
            async for piece in pieces:
                if isinstance(piece, Finished):
                    if waiting:
                        yield TextDelta("", waiting)
                    yield piece
                else:
                    waiting += piece.token_ids
                    if piece.text:
                        yield TextDelta(piece.text, waiting)
                        waiting = ()
