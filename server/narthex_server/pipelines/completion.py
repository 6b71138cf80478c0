"""One run of the engine as text: tokens to characters, stop strings, limits."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from narthex_server.engine.request import EngineRequest, Tokens
from narthex_server.errors import ContextOverflow, InvalidRequest
from narthex_server.pipelines.events import Finished, FinishReason, Usage
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest, GenerateRequest, StoppingOptions, refuse
from narthex_server.pipelines.tokens import check_ids
from narthex_server.text.detokenize import Detokenizer
from narthex_server.text.stop import StopStrings


@dataclass(frozen=True, slots=True)
class Piece:
    """New text and the tokens that came with it; either may be empty."""

    text: str
    token_ids: tuple[int, ...]


def prepare(model: TextModel, request: GenerateRequest | ChatRequest, prompt: tuple[int, ...]) -> EngineRequest:
    """What the engine is asked. Errors: InvalidRequest; ContextOverflow when prompt and max_tokens do not fit."""
    stopping = request.stopping
    refuse(stopping.validate())
    if not prompt:
        raise InvalidRequest("the prompt is empty; give at least one token", reason="EMPTY_PROMPT")
    check_ids(model, prompt, "prompt")
    room = model.max_context - len(prompt)
    if room < (1 if stopping.fit_context else stopping.max_tokens or 1):
        raise _overflow(len(prompt), stopping.max_tokens, model.max_context)
    eos = frozenset() if stopping.ignore_eos else model.text.eos_ids
    return EngineRequest(
        request.request_id,
        prompt,
        min(stopping.max_tokens or room, room),
        eos | stopping.stop_token_ids,
        request.sampling.resolve(model.text.defaults),
        request.adapters,
    )


async def complete(
    model: TextModel, request: EngineRequest, stopping: StoppingOptions, detokenizer: Detokenizer
) -> AsyncGenerator[Piece | Finished]:
    """Yields pieces, then one Finished; closing it frees the engine's slot."""
    stops = StopStrings(stopping.stop, stopping.include_stop)
    ids: list[int] = []
    async with aclosing(model.handle.generate(request)) as events:
        async for event in events:
            if isinstance(event, Tokens):
                fresh, text = 0, ""
                for (
                    token
                ) in event.ids:  # one by one: where a stop string ends must not depend on how tokens are batched
                    text += stops.feed(detokenizer.feed((token,)))
                    fresh += 1
                    if stops.matched is not None:
                        break
                ids += event.ids[:fresh]
                yield Piece(text, event.ids[:fresh])
                if stops.matched is not None:
                    usage = Usage(len(request.prompt), len(ids))
                    yield Finished(FinishReason.STOP, usage, stop_string=stops.matched, token_ids=tuple(ids))
                    return
            else:
                tail = stops.feed(detokenizer.finish()) + stops.finish()
                if tail:
                    yield Piece(tail, ())
                spent = event.usage
                usage = Usage(
                    spent.prompt_tokens, spent.completion_tokens, spent.cached_tokens,
                    speculated_tokens=spent.speculated_tokens, accepted_tokens=spent.accepted_tokens,
                )  # fmt: skip
                finished = Finished(FinishReason(event.reason.value), usage, stops.matched, token_ids=tuple(ids))
                if event.stop_id is not None and event.stop_id in stopping.stop_token_ids:
                    finished = replace(finished, stop_token_id=event.stop_id)
                yield finished


def _overflow(prompt: int, max_tokens: int | None, context: int) -> ContextOverflow:
    metadata = {"prompt_tokens": str(prompt), "context": str(context)}
    if max_tokens is None:
        return ContextOverflow(
            f"the prompt has {prompt} tokens, and the model's context of {context} has to hold the answer as well; "
            "shorten the prompt",
            metadata=metadata,
        )
    return ContextOverflow(
        f"{prompt} prompt tokens and max_tokens {max_tokens} make {prompt + max_tokens}, but the model's context is "
        f"{context}; shorten the prompt or lower max_tokens",
        metadata=metadata | {"max_tokens": str(max_tokens)},
    )
