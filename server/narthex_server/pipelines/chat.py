"""A conversation, continued by one turn of the assistant."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from narthex_server.engine.request import EngineRequest
from narthex_server.pipelines.completion import Scores, complete, prepare
from narthex_server.pipelines.constraining import turn_grammar
from narthex_server.pipelines.events import (
    ChatEvent,
    Finished,
    FinishReason,
    PositionLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallStarted,
)
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest
from narthex_server.pipelines.tokens import ChatPrompt, encode_chat, supports_tools
from narthex_server.text.calls.parser import CallBegun, CallParser, Piece
from narthex_server.text.detokenize import Detokenizer
from narthex_server.text.messages import ToolCall
from narthex_server.text.reasoning import Splitter, Thought


class ChatPipeline:
    """Chats with one model."""

    def __init__(self, model: TextModel) -> None:
        self.model = model

    @property
    def takes_tools(self) -> bool:
        """Whether the model's template knows how to offer tools."""
        return supports_tools(self.model)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatEvent]:
        """Yields Started, then TextDelta, ReasoningDelta, ToolCallStarted and ToolCall, then one Finished.

        Closing it frees the slot.

        Errors: InvalidRequest and ContextOverflow before the first event; then those of the engine.
        """
        model = self.model
        prompt = await encode_chat(model, request)
        engine_request = await self._prepared(request, prompt)
        if engine_request.prompt_logprobs is None:
            yield Started(prompt.ids)
        turn = _Turn(model, prompt, frozenset(tool.name for tool in request.tools))
        # A constrained text is what its tokens spell, to the first space.
        detokenizer = Detokenizer(model.text.tokenizer, self._shown(request, prompt), request.constraint is None)
        async with aclosing(complete(model, engine_request, request.stopping, detokenizer)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished):
                    for event in turn.finish():
                        yield event
                    yield turn.finished(piece)
                elif isinstance(piece, Scores):
                    yield Started(prompt.ids, piece.logprobs)
                else:
                    for event in turn.feed(piece.text, piece.token_ids, piece.logprobs):
                        yield event

    async def check(self, request: ChatRequest) -> None:
        """Raises what `stream` would before its first event, as far as that is up to the request."""
        self.model.handle.check_content(await self._prepared(request, await encode_chat(self.model, request)))

    async def _prepared(self, request: ChatRequest, prompt: ChatPrompt) -> EngineRequest:
        engine_request = prepare(self.model, request, prompt.ids)
        return replace(engine_request, grammar=await turn_grammar(self.model, request, prompt))

    def _shown(self, request: ChatRequest, prompt: ChatPrompt) -> frozenset[int]:
        """Special tokens that have to come through as text: the marks of calls and of reasoning."""
        tokenizer = self.model.text.tokenizer
        if not request.skip_special:
            return tokenizer.special_ids
        marks = prompt.dialect.markers if prompt.dialect else ()
        return tokenizer.ids_of((*marks, *(prompt.reasoning.marks if prompt.reasoning else ())))


class _Turn:
    """One turn's text, told apart into what is said, thought and called."""

    def __init__(self, model: TextModel, prompt: ChatPrompt, tools: frozenset[str]) -> None:
        reasoning = prompt.reasoning
        thinks = reasoning is not None and not reasoning.over(prompt.text)
        self._splitter: Splitter | None = (
            reasoning.splitter(reasoning.begun(prompt.text)) if reasoning and thinks else None
        )
        self._close = reasoning.close.encode() if reasoning else b""
        self._parser: CallParser | None = prompt.dialect.parser() if prompt.dialect else None
        self._pieces = model.text.tokenizer.pieces
        self._tools = tools
        self._started = ""  # the id of the last call that was said to begin
        self._waiting = TextDelta("")  # tokens that came since the last text
        self._called = self._thought = False

    def feed(self, text: str, ids: tuple[int, ...], logprobs: tuple[PositionLogprobs, ...]) -> list[ChatEvent]:
        self._waiting = TextDelta("", self._waiting.token_ids + ids, self._waiting.logprobs + logprobs)
        return self._events(self._splitter.feed(text) if self._splitter else (text,))

    def finish(self) -> list[ChatEvent]:
        events = self._events(self._splitter.finish()) if self._splitter else []
        if self._parser:
            events += self._told(self._parser.finish())
        if self._waiting.logprobs:  # of tokens that became no text, such as those of a call
            events.append(self._waiting)
        return events

    def finished(self, engine: Finished) -> Finished:
        """The end as the caller sees it: with the calls as its reason, and the thoughts counted."""
        called = self._called and engine.reason is FinishReason.STOP
        reason = FinishReason.TOOL_CALLS if called else engine.reason
        if not self._thought:
            return replace(engine, reason=reason)
        usage = replace(engine.usage, reasoning_tokens=self._tokens_of_thoughts(engine.token_ids))
        return replace(engine, reason=reason, usage=usage)

    def _tokens_of_thoughts(self, ids: Sequence[int]) -> int:
        """How many tokens there are up to and with the closing mark."""
        pieces, tail = self._pieces or (), b""
        for at, token in enumerate(ids):
            tail += pieces[token] if token < len(pieces) else b""
            if self._close in tail:
                return at + 1
            tail = tail[-len(self._close) :]
        return len(ids)

    def _events(self, parts: Iterable[str | Thought]) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        for part in parts:
            if isinstance(part, Thought):
                self._thought = True
                events.append(ReasoningDelta(part.text))
            else:
                events += self._told(self._parser.feed(part) if self._parser else (part,))
        return events

    def _told(self, pieces: Iterable[Piece]) -> Iterator[ChatEvent]:
        for piece in pieces:
            match piece:
                case CallBegun(call_id, name) if name in self._tools:
                    self._started = call_id
                    yield ToolCallStarted(call_id, name)
                case ToolCall():
                    self._called = True
                    if piece.id != self._started:
                        yield ToolCallStarted(piece.id, piece.name)
                    yield piece
                case str() if piece:
                    said, self._waiting = replace(self._waiting, text=piece), TextDelta("")
                    yield said
