"""One answer of a remote engine, from the chunks that it streams."""

from collections.abc import Mapping
from typing import Any

from narthex_server.errors import NarthexError
from narthex_server.pipelines.events import (
    ChatEvent,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Usage,
)
from narthex_server.pipelines.remote.calls import CallAssembler, TooMuch
from narthex_server.pipelines.remote.refusals import Refusals
from narthex_server.text.messages import ToolCall

_REASONS: Mapping[str, FinishReason] = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "abort": FinishReason.CANCELLED,
    "cancelled": FinishReason.CANCELLED,
}
"""All others, such as `stop`, `tool_calls` and `content_filter`, are ends as good as any."""


class Turn:
    """Chunks of a chat's or a completion's only choice in, events out; use it once.

    https://platform.openai.com/docs/api-reference/chat-streaming, and what engines make of it: the `message` whole
    instead of deltas, `reasoning` or `reasoning_content`, calls that end with `stop`.
    """

    def __init__(self, refusals: Refusals, tools: frozenset[str] = frozenset(), stops: tuple[str, ...] = ()) -> None:
        self._refusals = refusals
        self._calls = CallAssembler(tools)
        self._stops = stops
        self._reason: str | None = None
        self._stop_string: str | None = None
        self.usage = Usage()

    def feed(self, chunk: Any) -> list[ChatEvent]:
        """What a chunk brings. Errors: that which the engine tells instead; Unavailable for what makes no sense."""
        if not isinstance(chunk, Mapping):
            raise self._refusals.broken("sent what is no part of an answer")
        if chunk.get("error"):
            raise self._refusals.told(chunk["error"])
        if isinstance(usage := chunk.get("usage"), Mapping):
            self.usage = _usage(usage)
        choices = chunk.get("choices")
        events: list[ChatEvent] = []
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping) and choice.get("index", 0) in (0, None):
                events += self._choice(choice)
        return events

    def finish(self, done: bool) -> list[ChatEvent]:
        """The rest, Finished last; `done` is whether the engine said that this is all. Errors: Unavailable if not."""
        if self._reason is None and not done:
            raise self._refusals.unreachable("broke off its answer")
        reason = _REASONS.get(self._reason or "", FinishReason.STOP)
        rest = self._calls.finish(whole=reason is FinishReason.STOP)
        if reason is FinishReason.STOP and any(isinstance(event, ToolCall) for event in rest):
            reason = FinishReason.TOOL_CALLS
        return [*rest, Finished(reason, self.usage, self._stop_string)]

    def _choice(self, choice: Mapping[str, Any]) -> list[ChatEvent]:
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._reason = reason
            stop = choice.get("stop_reason")  # vLLM's
            self._stop_string = stop if isinstance(stop, str) and stop in self._stops else None
        events: list[ChatEvent] = [TextDelta(text)] if (text := _text(choice.get("text"))) else []
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, Mapping):
            return events
        if thought := _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")):
            events.append(ReasoningDelta(thought))
        if said := _text(delta.get("content")) or _text(delta.get("refusal")):
            events.append(TextDelta(said))
        if isinstance(calls := delta.get("tool_calls"), list):
            events += self._called(calls)
        return events

    def _called(self, pieces: list[Any]) -> list[ChatEvent]:
        try:
            return [*self._calls.feed(pieces)]
        except TooMuch as error:
            raise self._too_much() from error

    def _too_much(self) -> NarthexError:
        return self._refusals.broken("sent more tool calls than an answer can have")


def _text(value: Any) -> str:
    """Text as it is, or in parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, Mapping))
    return value if isinstance(value, str) else ""


def _usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
        _count(usage.get("prompt_tokens_details"), "cached_tokens"),
        _count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _count(found: Any, name: str) -> int:
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if type(value) is int and 0 <= value < 2**31 else 0
