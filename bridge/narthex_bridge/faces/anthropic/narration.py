"""A chat's events as the Messages API tells them: a message that grows block by block."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.anthropic import names
from narthex_bridge.faces.anthropic.face import error
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.protocol import sse
from narthex_bridge.protocol.failures import BackendError

Event = dict[str, Any]

UNSIGNED = "unsigned"
"""The signature of every thought: clients want one, and here nobody checks who thought it."""
_PING: Event = {"type": "ping"}
_TEXT = {"type": "text", "text": ""}
_THINKING = {"type": "thinking", "thinking": "", "signature": ""}
_REASONS = {
    common.FINISH_REASON_STOP: "end_turn",
    common.FINISH_REASON_LENGTH: "max_tokens",
    common.FINISH_REASON_TOOL_CALLS: "tool_use",
    common.FINISH_REASON_TOOL_ROUNDS: "pause_turn",
    common.FINISH_REASON_BUDGET: "pause_turn",
}


class Narrator:
    """Turns the events of one chat into those of one message."""

    def __init__(self, own_tools: frozenset[str], single_call: bool, shows_thoughts: bool, server_runs: bool) -> None:
        self._own_tools = own_tools
        self._single_call = single_call
        self._shows_thoughts = shows_thoughts
        self._server_runs = server_runs
        self._called = False
        self._open = ""
        self._next = 0

    def tell(self, events: Iterable[wire.ChatStreamResponse]) -> Iterator[Event]:
        """The message's next events; neighbouring pieces of text share one. Raises BackendError for an aborted chat."""
        kind, texts = "", list[str]()
        for event in events:
            happened = event.WhichOneof("event")
            if happened in ("text_delta", "reasoning_delta"):
                if happened != kind:
                    yield from self._say(kind, "".join(texts))
                    kind, texts = happened, []
                texts.append(event.text_delta.text if happened == "text_delta" else event.reasoning_delta.text)
                continue
            yield from self._say(kind, "".join(texts))
            kind = ""
            match happened:
                case "started":
                    yield _started(event.started)
                case "tool_call":
                    yield from self._call(event.tool_call)
                case "tool_result":
                    yield from self._result(event.tool_result)
                case "finished":
                    yield from self._finish(event.finished)
        yield from self._say(kind, "".join(texts))

    def _say(self, kind: str, text: str) -> Iterator[Event]:
        if not kind or not text:
            return
        if kind == "text_delta":
            yield from self._begin("text", _TEXT)
            yield self._delta({"type": "text_delta", "text": text})
        else:
            yield from self._begin("thinking", _THINKING)
            if self._shows_thoughts:
                yield self._delta({"type": "thinking_delta", "thinking": text})

    def _call(self, call: wire.ToolCall) -> Iterator[Event]:
        arguments = call.arguments.decode() or "{}"
        if self._server_runs and call.name not in self._own_tools:
            server, name = names.parts(call.name)
            block = {"type": "mcp_tool_use", "id": call.id, "name": name, "server_name": server, "input": {}}
        elif self._single_call and self._called:
            return
        else:
            self._called = True
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        yield from self._begin("call", block)
        yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        yield from self._end()

    def _result(self, result: wire.ToolCallResult) -> Iterator[Event]:
        content = [{"type": "text", "text": text} for text in _texts(result.result.content)]
        block = {"type": "mcp_tool_result", "tool_use_id": result.tool_call_id, "is_error": result.result.is_error}
        yield from self._begin("result", block | {"content": content})
        yield from self._end()

    def _finish(self, finished: common.Finished) -> Iterator[Event]:
        if finished.finish_reason == common.FINISH_REASON_CANCELLED:
            raise BackendError("ABORTED", "This was aborted while it was in work.")
        yield from self._end()
        stopped = finished.stop_string or None
        reason = "stop_sequence" if stopped else _REASONS.get(finished.finish_reason, "end_turn")
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": stopped},
            "usage": _usage(finished.usage),
        }
        yield {"type": "message_stop"}

    def _begin(self, kind: str, block: Event) -> Iterator[Event]:
        """Opens a block, unless text goes on in the one that is open."""
        if self._open == kind:
            return
        yield from self._end()
        self._open = kind
        yield {"type": "content_block_start", "index": self._next, "content_block": block}

    def _delta(self, delta: Event) -> Event:
        return {"type": "content_block_delta", "index": self._next, "delta": delta}

    def _end(self) -> Iterator[Event]:
        if not self._open:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": UNSIGNED})
        yield {"type": "content_block_stop", "index": self._next}
        self._open = ""
        self._next += 1


class MessageStream:
    """The message as server-sent events; silence is a `ping`."""

    def __init__(self, narrator: Narrator, request_id: str) -> None:
        self._narrator = narrator
        self._request_id = request_id

    def tell(self, events: Sequence[wire.ChatStreamResponse]) -> bytes:
        frames = []
        try:
            for event in self._narrator.tell(events) if events else (_PING,):
                frames.append(sse.event(event["type"].encode(), orjson.dumps(event)))
        except BackendError as failure:
            frames.append(self.fail(Refusal.of(failure)))
        return b"".join(frames)

    def end(self) -> bytes:
        return b""

    def fail(self, refusal: Refusal) -> bytes:
        return sse.event(b"error", error(refusal, self._request_id))


def message(events: Iterable[Event]) -> Event:
    """The whole message that its events add up to."""
    whole: Event = {}
    for event in events:
        match event:
            case {"type": "message_start", "message": begun}:
                whole = begun
            case {"type": "content_block_start", "content_block": block}:
                whole["content"].append(dict(block))
            case {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": arguments}}:
                whole["content"][-1]["input"] = orjson.Fragment(arguments)
            case {"type": "content_block_delta", "delta": delta}:
                name = next(name for name in delta if name != "type")
                whole["content"][-1][name] += delta[name]
            case {"type": "message_delta", "delta": delta, "usage": usage}:
                whole |= delta | {"usage": usage}
    return whole


def of_answer(answer: wire.ChatResponse) -> Iterator[wire.ChatStreamResponse]:
    """The events that a whole answer stands for."""
    yield wire.ChatStreamResponse(started=wire.Started(request_id=answer.request_id, model=answer.model))
    for turn in answer.messages:
        yield wire.ChatStreamResponse(reasoning_delta=wire.ReasoningDelta(text=turn.reasoning))
        text = "".join(part.text for part in turn.content)
        yield wire.ChatStreamResponse(text_delta=common.TextDelta(text=text))
        for call in turn.tool_calls:
            yield wire.ChatStreamResponse(tool_call=call)
    yield wire.ChatStreamResponse(finished=answer.finished)


def _started(started: wire.Started) -> Event:
    empty = {"stop_reason": None, "stop_sequence": None, "usage": _usage(common.Usage())}
    about = {"id": f"msg_{started.request_id}", "type": "message", "role": "assistant", "model": started.model}
    return {"type": "message_start", "message": {**about, "content": [], **empty}}


def _usage(usage: common.Usage) -> Event:
    """Here `input_tokens` are only those that no cache had."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _texts(content: bytes) -> Iterator[str]:
    """The text of a tool's content blocks; the API has no other in results, so that others are told as JSON."""
    try:
        blocks = orjson.loads(content or b"[]")
    except orjson.JSONDecodeError:
        blocks = [{"type": "text", "text": content.decode("utf-8", "replace")}]
    for block in blocks:
        match block:
            case {"type": "text", "text": str(text)}:
                yield text
            case _:
                yield orjson.dumps(block).decode()
