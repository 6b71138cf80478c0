"""One run of the engine as text: tokens to characters, stop strings, limits."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from narthex_server.engine.request import EngineEvent, EngineRequest, PromptScores, Tokens
from narthex_server.engine.request import Finished as EngineFinished
from narthex_server.errors import ContextOverflow, InvalidRequest, NarthexError
from narthex_server.pipelines.events import Finished, FinishReason, PositionLogprobs, Usage
from narthex_server.pipelines.logprobs import Speller
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
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """All that was asked of the prompt; comes first."""

    logprobs: tuple[PositionLogprobs, ...]


def prepare(model: TextModel, request: GenerateRequest | ChatRequest, prompt: tuple[int, ...]) -> EngineRequest:
    """What the engine is asked. Errors: InvalidRequest; ContextOverflow when prompt and max_tokens do not fit."""
    stopping = request.stopping
    refuse((*stopping.validate(), *request.scoring.validate()))
    if not prompt:
        raise InvalidRequest("the prompt is empty; give at least one token", reason="EMPTY_PROMPT")
    check_ids(model, prompt, "prompt")
    room = model.max_context - len(prompt)
    if room < (1 if stopping.fit_context else stopping.max_tokens or 1):
        raise _overflow(len(prompt), stopping.max_tokens, model.max_context)
    eos = frozenset() if stopping.ignore_eos else model.text.eos_ids
    sampling = request.sampling.resolve(model.text.defaults, model.text.tokenizer)
    refuse(sampling.outside(model.vocab_size))
    return EngineRequest(
        request.request_id,
        prompt,
        min(stopping.max_tokens or room, room),
        eos | stopping.stop_token_ids,
        sampling,
        request.adapters,
        min_tokens=stopping.min_tokens,
        logprobs=request.scoring.completion,
        prompt_logprobs=request.scoring.prompt,
        index=request.index,
    )


async def complete(
    model: TextModel, request: EngineRequest, stopping: StoppingOptions, detokenizer: Detokenizer
) -> AsyncGenerator[Scores | Piece | Finished]:
    """Yields Scores if the prompt's are asked for, pieces, then one Finished; closing it frees the engine's slot."""
    stops = StopStrings(stopping.stop, stopping.include_stop)
    speller = Speller(model.text.tokenizer)
    ids: list[int] = []
    logprobs: list[PositionLogprobs] = []
    scores: tuple[PositionLogprobs, ...] | None = () if request.prompt_logprobs is not None else None
    async with aclosing(model.engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, PromptScores):
                scores = (*(scores or ()), *speller.positions(event.logprobs))
                continue
            if scores is not None:
                yield Scores(scores)
                scores = None
            if isinstance(event, Tokens):
                fresh, text = 0, ""
                for token in event.ids:  # one by one: where a stop string ends must not depend on how they are batched
                    fresh += 1
                    may_end = len(ids) + fresh >= stopping.min_tokens
                    text += stops.feed(detokenizer.feed((token,)), may_end)
                    if stops.matched is not None:
                        break
                ids += event.ids[:fresh]
                scored = speller.positions(event.logprobs[:fresh])
                logprobs += scored
                yield Piece(text, event.ids[:fresh], scored)
                if stops.matched is not None:
                    model.abort(request.request_id, request.index)
                    usage = replace(await _spent(events, request), completion_tokens=len(ids))
                    yield Finished(FinishReason.STOP, usage, stops.matched, None, tuple(ids), tuple(logprobs))
                    return
            else:
                tail = stops.feed(detokenizer.finish()) + stops.finish()
                if tail:
                    yield Piece(tail, ())
                reason = FinishReason(event.reason.value)
                finished = Finished(reason, _usage(event), stops.matched, None, tuple(ids), tuple(logprobs))
                if event.stop_id is not None and event.stop_id in stopping.stop_token_ids:
                    finished = replace(finished, stop_token_id=event.stop_id)
                yield finished


async def _spent(events: AsyncGenerator[EngineEvent], request: EngineRequest) -> Usage:
    """What a request that was just aborted took; what may have failed since its text was complete is nobody's."""
    with suppress(NarthexError):
        async for event in events:
            if isinstance(event, EngineFinished):
                return _usage(event)
    return Usage(len(request.prompt))


def _usage(finished: EngineFinished) -> Usage:
    spent = finished.usage
    return Usage(
        spent.prompt_tokens, spent.completion_tokens, spent.cached_tokens,
        speculated_tokens=spent.speculated_tokens, accepted_tokens=spent.accepted_tokens,
    )  # fmt: skip


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
