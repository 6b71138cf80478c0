"""A chat as it comes: OpenAI's chat completion chunks."""

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.openai.calls import served_call, tool_call
from narthex_bridge.faces.openai.face import error
from narthex_bridge.faces.openai.logprobs import token_logprobs
from narthex_bridge.faces.openai.results import result_text
from narthex_bridge.faces.openai.tools import Tools
from narthex_bridge.faces.openai.usage import finish_reason, usage
from narthex_bridge.http.refusal import Refusal, needs_input

DONE = b"data: [DONE]\n\n"


class ChatChunks:
    """What does not change within an answer is written once; per token only its text is."""

    def __init__(self, tools: Tools, answers: int, *, scored: bool, include_usage: bool) -> None:
        """`scored` says that text comes with the probabilities or the ids of its tokens."""
        self._tools = tools
        self._answers = answers
        self._scored = scored
        self._include_usage = include_usage
        self._head = b""
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._before_text: list[bytes] = []
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._calls: dict[int, int] = {}
        """How many calls each answer has for its caller."""
        self._running: dict[str, wire.ToolCall] = {}
        self._usage = common.Usage()

    def tell(self, events: Sequence[wire.ChatStreamResponse]) -> bytes:
        """Text that waits is told in one chunk: a reader that lags gets fewer and longer ones."""
        if len(events) == 1:
            return self._tell(*_kind(events[0]), events)
        return b"".join([self._tell(kind, index, list(group)) for (kind, index), group in groupby(events, _kind)])

    def end(self) -> bytes:
        if not self._include_usage:
            return DONE
        return b'%b],"usage":%b}\n\n%b' % (self._head, orjson.dumps(usage(self._usage)), DONE)

    def fail(self, refusal: Refusal) -> bytes:
        return b"data: %b\n\n" % orjson.dumps({"error": error(refusal)})

    def _tell(self, kind: str | None, index: int, events: Sequence[wire.ChatStreamResponse]) -> bytes:
        """Of events of one kind for one answer."""
        if index >= self._answers or (self._tools.one_call and index in self._calls and kind != "finished"):
            return b""  # one call is all that was asked for
        if kind == "text_delta":
            text = events[0].text_delta.text
            if len(events) > 1:
                text = "".join([event.text_delta.text for event in events])
            if self._scored:
                return self._scores(index, text, [event.text_delta for event in events])
            return self._before_text[index] + orjson.dumps(text) + self._after_text
        if kind == "reasoning_delta":
            text = "".join([event.reasoning_delta.text for event in events])
            return self._delta(index, b'{"reasoning_content":%b}' % orjson.dumps(text))
        return b"".join([self._other(kind, index, event) for event in events])

    def _scores(self, index: int, text: str, deltas: Sequence[common.TextDelta]) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        if positions := [position for delta in deltas for position in delta.logprobs]:
            choice["logprobs"] = {"content": token_logprobs(positions), "refusal": None}
        if token_ids := [token for delta in deltas for token in delta.token_ids]:
            choice["token_ids"] = token_ids
        return self._chunk(choice)

    def _other(self, kind: str | None, index: int, event: wire.ChatStreamResponse) -> bytes:
        match kind:
            case "started":
                return self._start(event.started)
            case "tool_call":
                return self._call(index, event.tool_call)
            case "tool_result":
                result = event.tool_result
                call = self._running.pop(result.tool_call_id, None)
                if call is None:
                    return b""
                served = served_call(call, result_text(result.result), result.result.is_error)
                return self._delta(index, orjson.dumps({"server_tool_calls": [served]}))
            case "finished":
                self._usage.CopyFrom(event.finished.usage)
                reason = finish_reason(event.finished)
                return self._chunk({"index": index, "delta": {}, "logprobs": None, "finish_reason": reason})
            case "tool_activity" if event.tool_activity.HasField("input_required"):
                raise needs_input()
            case _:
                # A call that has only begun may become none; what a running tool reports has no place here.
                return b""

    def _start(self, started: wire.Started) -> bytes:
        head: dict[str, Any] = {
            "id": f"chatcmpl-{started.request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": started.model,
        }
        first = dict(head)
        if started.prompt.token_ids:
            first["prompt_token_ids"] = list(started.prompt.token_ids)
        self._head = _opened(head)
        self._before_text = [b'%b{"index":%d,"delta":{"content":' % (self._head, i) for i in range(self._answers)]
        opening = [self._delta(index, b'{"role":"assistant","content":""}') for index in range(self._answers)]
        opening[0] = _opened(first) + opening[0].removeprefix(self._head)
        return b"".join(opening)

    def _call(self, index: int, call: wire.ToolCall) -> bytes:
        if not self._tools.theirs(call.name):
            self._running[call.id] = call
            return b""
        number = self._calls.get(index, 0)
        if self._tools.one_call and number:
            return b""
        self._calls[index] = number + 1
        return self._delta(index, orjson.dumps({"tool_calls": [{"index": number, **tool_call(call)}]}))

    def _delta(self, index: int, delta: bytes) -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":null,"finish_reason":null}%b' % (
            self._head, index, delta, self._tail,
        )  # fmt: skip

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return b"%b%b%b" % (self._head, orjson.dumps(choice), self._tail)


def _kind(event: wire.ChatStreamResponse) -> tuple[str | None, int]:
    return event.WhichOneof("event"), event.index


def _opened(head: dict[str, Any]) -> bytes:
    return b'data: %b,"choices":[' % orjson.dumps(head)[:-1]
