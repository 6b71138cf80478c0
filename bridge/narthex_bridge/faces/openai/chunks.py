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
from narthex_bridge.faces.refusal import Refusal

DONE = b"data: [DONE]\n\n"


class ChatChunks:
    """What does not change within an answer is written once; per token only its text is."""

    def __init__(self, tools: Tools, answers: int, include_usage: bool) -> None:
        self._tools = tools
        self._answers = answers
        self._include_usage = include_usage
        self._head = b""
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._calls = [0] * answers
        """How many calls each answer has for its caller."""
        self._running: dict[str, wire.ToolCall] = {}
        self._usage = common.Usage()

    def tell(self, events: Sequence[wire.ChatStreamResponse]) -> bytes:
        """Text that waits is told in one chunk: a reader that lags gets fewer and longer ones."""
        chunks: list[bytes] = []
        for (kind, index), group in groupby(events, _kind):
            if index >= self._answers or (self._tools.single and self._calls[index] and kind != "finished"):
                continue  # one call is all that was asked for
            match kind:
                case "text_delta":
                    chunks.append(self._text(index, [event.text_delta for event in group]))
                case "reasoning_delta":
                    text = "".join(event.reasoning_delta.text for event in group)
                    chunks.append(self._delta(index, b'{"reasoning_content":%b}' % orjson.dumps(text)))
                case _:
                    chunks.extend(self._other(kind, index, event) for event in group)
        return b"".join(chunks)

    def end(self) -> bytes:
        if not self._include_usage:
            return DONE
        return b'%b],"usage":%b}\n\n%b' % (self._head, orjson.dumps(usage(self._usage)), DONE)

    def fail(self, refusal: Refusal) -> bytes:
        return b"data: %b\n\n" % orjson.dumps({"error": error(refusal)})

    def _text(self, index: int, deltas: Sequence[common.TextDelta]) -> bytes:
        delta = deltas[0]
        text = delta.text if len(deltas) == 1 else "".join([delta.text for delta in deltas])
        if not delta.logprobs and not delta.token_ids:
            return self._delta(index, b'{"content":%b}' % orjson.dumps(text))
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
        opening = [self._delta(index, b'{"role":"assistant","content":""}') for index in range(self._answers)]
        opening[0] = _opened(first) + opening[0].removeprefix(self._head)
        return b"".join(opening)

    def _call(self, index: int, call: wire.ToolCall) -> bytes:
        if not self._tools.theirs(call.name):
            self._running[call.id] = call
            return b""
        if self._tools.single and self._calls[index]:
            return b""
        number, self._calls[index] = self._calls[index], self._calls[index] + 1
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
