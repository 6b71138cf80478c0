"""A conversation, continued by one turn of the assistant."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace

from narthex_server.pipelines.completion import Scores, complete, prepare
from narthex_server.pipelines.events import (
    ChatEvent,
    Finished,
    FinishReason,
    PositionLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
)
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest
from narthex_server.pipelines.tokens import ChatPrompt, encode_chat
from narthex_server.text import reasoning
from narthex_server.text.calls.parser import CallParser
from narthex_server.text.detokenize import Detokenizer
from narthex_server.text.messages import ToolCall
from narthex_server.text.reasoning import ReasoningSplitter, Thought


class ChatPipeline:
    """Chats with one model."""

    def __init__(self, model: TextModel) -> None:
        self.model = model

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatEvent]:
        """Yields Started, then TextDelta, ReasoningDelta and ToolCall, then one Finished; closing it frees the slot.

        Errors: InvalidRequest and ContextOverflow before the first event; then those of the engine.
        """
        model = self.model
        prompt = await encode_chat(model, request)
        engine_request = prepare(model, request, prompt.ids)
        turn = _Turn(model, prompt)
        if engine_request.prompt_logprobs is None:
            for event in turn.start():
                yield event
        detokenizer = Detokenizer(model.text.tokenizer, self._shown(request, prompt))
        async with aclosing(complete(model, engine_request, request.stopping, detokenizer)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished):
                    for event in turn.finish():
                        yield event
                    yield turn.finished(piece)
                elif isinstance(piece, Scores):
                    for event in turn.start(piece.logprobs):
                        yield event
                else:
                    for event in turn.feed(piece.text, piece.token_ids, piece.logprobs):
                        yield event

    def _shown(self, request: ChatRequest, prompt: ChatPrompt) -> frozenset[int]:
        """Special tokens that have to come through as text: the marks of calls and of reasoning."""
        tokenizer = self.model.text.tokenizer
        if not request.skip_special:
            return tokenizer.special_ids
        marks = prompt.dialect.markers if prompt.dialect else ()
        return tokenizer.ids_of((*marks, reasoning.OPEN, reasoning.CLOSE))


class _Turn:
    """One turn's text, told apart into what is said, thought and called."""

    def __init__(self, model: TextModel, prompt: ChatPrompt) -> None:
        template = model.text.template
        thinks = template is not None and reasoning.CLOSE in template.source
        inside = thinks and prompt.text.rstrip().endswith(reasoning.OPEN)
        self._splitter = ReasoningSplitter(inside) if thinks and not prompt.opening else None
        self._parser: CallParser | None = prompt.dialect.parser() if prompt.dialect else None
        self._tokenizer = model.text.tokenizer
        self._prompt = prompt
        self._waiting = TextDelta("")  # tokens that came since the last text
        self._called = self._thought = False

    def start(self, logprobs: tuple[PositionLogprobs, ...] = ()) -> list[ChatEvent]:
        return [Started(self._prompt.ids, logprobs), *self.feed(self._prompt.opening, ())]

    def feed(self, text: str, ids: tuple[int, ...], logprobs: tuple[PositionLogprobs, ...] = ()) -> list[ChatEvent]:
        self._waiting = TextDelta("", self._waiting.token_ids + ids, self._waiting.logprobs + logprobs)
        return self._events(self._splitter.feed(text) if self._splitter else (text,))

    def finish(self) -> list[ChatEvent]:
        events = self._events(self._splitter.finish()) if self._splitter else []
        if self._parser:
            events += [self._event(piece) for piece in self._parser.finish() if piece]
        if self._waiting.logprobs:  # of tokens that became no text, such as those of a call
            events.append(self._waiting)
        return events

    def finished(self, engine: Finished) -> Finished:
        """The end as the caller sees it: with the calls as its reason, and the thoughts counted."""
        called = self._called and engine.reason is FinishReason.STOP
        reason = FinishReason.TOOL_CALLS if called else engine.reason
        if not self._thought:
            return replace(engine, reason=reason)
        ends = self._tokenizer.ids_of((reasoning.CLOSE,))
        thoughts = next((at + 1 for at, token in enumerate(engine.token_ids) if token in ends), len(engine.token_ids))
        return replace(engine, reason=reason, usage=replace(engine.usage, reasoning_tokens=thoughts))

    def _events(self, parts: Iterable[str | Thought]) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        for part in parts:
            if isinstance(part, Thought):
                self._thought = True
                events.append(ReasoningDelta(part.text))
            else:
                pieces = self._parser.feed(part) if self._parser else (part,)
                events += [self._event(piece) for piece in pieces if piece]
        return events

    def _event(self, piece: str | ToolCall) -> ChatEvent:
        if isinstance(piece, ToolCall):
            self._called = True
            return piece
        said, self._waiting = replace(self._waiting, text=piece), TextDelta("")
        return said
