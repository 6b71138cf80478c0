"""A response as it grows: its items, and the events that tell of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.openai.asked import Asked
from narthex_bridge.faces.openai.face import error
from narthex_bridge.faces.openai.logprobs import token_logprobs
from narthex_bridge.faces.openai.results import result_text
from narthex_bridge.http.refusal import Refusal, needs_input
from narthex_bridge.protocol import sse

_SERVICE = "narthex"
_UNFINISHED: Mapping[int, str] = {
    common.FINISH_REASON_LENGTH: "max_output_tokens",
    common.FINISH_REASON_TOOL_ROUNDS: "max_tool_rounds",
    common.FINISH_REASON_BUDGET: "max_tool_calls",
    common.FINISH_REASON_REPETITION: "repetition",
}


@dataclass(slots=True)
class _Open:
    """The item that text is being added to: a message or reasoning, of one round."""

    kind: str
    round: int
    id: str
    index: int
    delta: bytes
    texts: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}

    def part(self) -> dict[str, Any]:
        text = "".join(self.texts)
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}

    def item(self, status: str) -> dict[str, Any]:
        said = [self.part()] if status != "in_progress" else []
        if self.kind == "reasoning":
            return {"id": self.id, "type": "reasoning", "summary": [], "content": said, "status": status}
        return {"id": self.id, "type": "message", "role": "assistant", "content": said, "status": status}


class Output:
    """Takes a chat's events; tells them as a response's, and has the response as a whole at any time."""

    def __init__(self, id: str, asked: Asked, created: int, after: int = -1) -> None:
        """`created` is when it was asked for; events up to the number `after` have been told before."""
        self._id = id
        self._asked = asked.repeated
        self._tools = asked.tools
        self._labels = asked.labels
        self._created = created
        self._after = after
        self._announced = self._begun = False
        self._model = asked.model
        self._items: list[dict[str, Any]] = []
        self._open: _Open | None = None
        self._running: dict[str, int] = {}
        self._called = False
        self._sequence = 0
        self._finished = common.Finished()

    def tell(self, events: Sequence[wire.ChatStreamResponse]) -> bytes:
        """Text that waits is told in one event: a reader that lags gets fewer and longer ones."""
        if len(events) == 1:
            return self._tell(*_kind(events[0]), events)
        return b"".join([self._tell(kind, number, list(group)) for (kind, number), group in groupby(events, _kind)])

    @property
    def begun(self) -> bool:
        """Whether the work has."""
        return self._begun

    def queued(self) -> bytes:
        """What tells that it waits for its turn."""
        self._announced = True
        whole = {"response": self.standing("queued")}
        return self._event("response.created", whole) + self._event("response.queued", whole)

    def end(self) -> bytes:
        """Also settles what stays undone: calls after the last round were not run."""
        unfinished = self._undone()
        found = self.response()
        return unfinished + self._event(f"response.{found['status']}", {"response": found})

    def fail(self, refusal: Refusal) -> bytes:
        return self._event("response.failed", {"response": self.failed(refusal)})

    def cancelled(self) -> bytes:
        """Instead of what would still have come, when somebody ended it."""
        cut = self._closed(cut=True) + self._undone()
        return cut + self._event("response.cancelled", {"response": self.standing("cancelled")})

    def broken(self, refusal: Refusal) -> bytes:
        """This telling ends, the response does not."""
        told = error(refusal)
        told = {"type": "error", "code": told["code"], "message": told["message"], "param": told["param"]}
        return sse.event(b"error", orjson.dumps({**told, "sequence_number": self._sequence}))

    def failed(self, refusal: Refusal) -> dict[str, Any]:
        """The response that could not be made."""
        told = error(refusal)
        code = told["code"] if told["code"] == "rate_limit_exceeded" else told["type"]
        failure = {"code": code or "server_error", "message": refusal.text}
        return {**self.standing("failed"), "error": failure}

    def response(self) -> dict[str, Any]:
        """The response after its last event."""
        reason = _UNFINISHED.get(self._finished.finish_reason)
        if self._finished.finish_reason == common.FINISH_REASON_CANCELLED:
            return self.standing("cancelled")
        made = self.standing("incomplete" if reason else "completed")
        return {**made, "incomplete_details": {"reason": reason}} if reason else made

    def _tell(self, kind: str | None, number: int, events: Sequence[wire.ChatStreamResponse]) -> bytes:
        """Of events of one kind and round."""
        if self._tools.one_call and self._called and kind != "finished":
            return b""  # one call is all that was asked for
        if kind == "text_delta":
            return self._text(number, [event.text_delta for event in events])
        if kind == "reasoning_delta":
            text = "".join([event.reasoning_delta.text for event in events])
            return self._opened("reasoning", number) + self._delta(text)
        return b"".join([self._other(kind, event) for event in events])

    def _other(self, kind: str | None, event: wire.ChatStreamResponse) -> bytes:
        match kind:
            case "started":
                self._model, self._begun = event.started.model, True
                self._id = event.started.request_id or self._id  # of work that was done before, its own
                whole = {"response": self.standing("in_progress")}
                created = b"" if self._announced else self._event("response.created", whole)
                return created + self._event("response.in_progress", whole)
            case "tool_call":
                call = event.tool_call
                return self._closed() + (self._call(call) if self._tools.theirs(call.name) else self._run(call))
            case "tool_result":
                result = event.tool_result
                index = self._running.pop(result.tool_call_id, None)
                return b"" if index is None else self._ran(index, result.result, "completed")
            case "finished":
                self._finished = event.finished
                return self._closed(event.finished.finish_reason == common.FINISH_REASON_LENGTH)
            case "tool_activity" if event.tool_activity.HasField("input_required"):
                raise needs_input()
            case _:
                return b""

    def _text(self, number: int, deltas: Sequence[common.TextDelta]) -> bytes:
        text = deltas[0].text if len(deltas) == 1 else "".join([delta.text for delta in deltas])
        if not text and not deltas[0].logprobs:
            return b""  # nothing to begin a message with
        opened = self._opened("message", number)
        if not deltas[0].logprobs:
            return opened + self._delta(text)
        assert self._open is not None
        found = token_logprobs(position for delta in deltas for position in delta.logprobs)
        self._open.texts.append(text)
        self._open.logprobs += found
        return opened + self._event(
            "response.output_text.delta", {**self._open.place, "delta": text, "logprobs": found}
        )

    def _opened(self, kind: str, number: int) -> bytes:
        """What tells that an item of this kind begins; nothing where it has begun."""
        if self._open is not None and (self._open.kind, self._open.round) == (kind, number):
            return b""
        closed, index = self._closed(), len(self._items)
        id = f"{'msg' if kind == 'message' else 'rs'}_{self._id}_{index}"
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        name = "response.output_text.delta" if kind == "message" else "response.reasoning_text.delta"
        place = {"type": name, "item_id": id, "output_index": index, "content_index": 0, **more}
        head = b"event: %b\ndata: %b" % (name.encode(), orjson.dumps(place)[:-1])
        self._open = _Open(kind, number, id, index, head)
        self._items.append({})
        return b"".join(
            (
                closed,
                self._added(index, self._open.item("in_progress")),
                self._event("response.content_part.added", {**self._open.place, "part": self._open.part()}),
            )
        )

    def _delta(self, text: str) -> bytes:
        assert self._open is not None
        self._open.texts.append(text)
        self._sequence += 1
        if self._sequence - 1 <= self._after:
            return b""
        return b'%b,"delta":%b,"sequence_number":%d}\n\n' % (self._open.delta, orjson.dumps(text), self._sequence - 1)

    def _closed(self, cut: bool = False) -> bytes:
        """What tells that the open item, if any, is at its end."""
        item, self._open = self._open, None
        if item is None:
            return b""
        self._items[item.index] = made = item.item("incomplete" if cut else "completed")
        part = item.part()
        name = "response.output_text.done" if item.kind == "message" else "response.reasoning_text.done"
        more = {"logprobs": item.logprobs} if item.kind == "message" else {}
        return b"".join(
            (
                self._event(name, {**item.place, "text": part["text"], **more}),
                self._event("response.content_part.done", {**item.place, "part": part}),
                self._done(item.index, made),
            )
        )

    def _call(self, call: wire.ToolCall) -> bytes:
        if self._tools.one_call and self._called:
            return b""
        self._called = True
        index, arguments = len(self._items), call.arguments.decode("utf-8", "replace")
        id = f"fc_{self._id}_{index}"
        item = {"id": id, "type": "function_call", "call_id": call.id, "name": call.name, "arguments": ""}
        self._items.append(made := {**item, "arguments": arguments, "status": "completed"})
        place, name = {"item_id": id, "output_index": index}, "response.function_call_arguments"
        return b"".join(
            (
                self._added(index, {**item, "status": "in_progress"}),
                self._event(f"{name}.delta", {**place, "delta": arguments}),
                self._event(f"{name}.done", {**place, "name": call.name, "arguments": arguments}),
                self._done(index, made),
            )
        )

    def _run(self, call: wire.ToolCall) -> bytes:
        index, arguments = len(self._items), call.arguments.decode("utf-8", "replace")
        self._running[call.id] = index
        item = {
            "id": f"mcp_{self._id}_{index}",
            "type": "mcp_call",
            "server_label": self._labels.get(call.name, _SERVICE),
            "name": call.name,
            "arguments": "",
            "output": None,
            "error": None,
            "status": "in_progress",
        }
        self._items.append({**item, "arguments": arguments})
        place, name = {"item_id": item["id"], "output_index": index}, "response.mcp_call_arguments"
        return b"".join(
            (
                self._added(index, item),
                self._event("response.mcp_call.in_progress", place),
                self._event(f"{name}.delta", {**place, "delta": arguments}),
                self._event(f"{name}.done", {**place, "arguments": arguments}),
            )
        )

    def _undone(self) -> bytes:
        """What tells that calls were not run."""
        told = b"".join([self._ran(index, None, "incomplete") for index in self._running.values()])
        self._running.clear()
        return told

    def _ran(self, index: int, result: Any, status: str) -> bytes:
        """What tells of a call's result; None where it was not run."""
        item = self._items[index]
        failed = result is None or result.is_error
        if result is not None:
            item["output"] = text = result_text(result)
            item["error"] = {"type": "mcp_tool_execution_error", "content": text} if result.is_error else None
        item["status"] = "failed" if result is not None and result.is_error else status
        name = f"response.mcp_call.{'failed' if failed else 'completed'}"
        return self._event(name, {"item_id": item["id"], "output_index": index}) + self._done(index, item)

    def _added(self, index: int, item: Mapping[str, Any]) -> bytes:
        return self._event("response.output_item.added", {"output_index": index, "item": item})

    def _done(self, index: int, item: Mapping[str, Any]) -> bytes:
        return self._event("response.output_item.done", {"output_index": index, "item": item})

    def _event(self, name: str, more: Mapping[str, Any]) -> bytes:
        number, self._sequence = self._sequence, self._sequence + 1
        if number <= self._after:
            return b""
        data = {"type": name, **more, "sequence_number": number}
        return sse.event(name.encode(), orjson.dumps(data))

    def standing(self, status: str) -> dict[str, Any]:
        """The response as it is now."""
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": [item for item in self._items if item],
            "usage": None
            if self._finished.finish_reason == common.FINISH_REASON_UNSPECIFIED
            else _usage(self._finished.usage),
            **self._asked,
        }


def _kind(event: wire.ChatStreamResponse) -> tuple[str | None, int]:
    return event.WhichOneof("event"), event.round


def _usage(spent: common.Usage) -> dict[str, Any]:
    return {
        "input_tokens": spent.prompt_tokens,
        "input_tokens_details": {"cached_tokens": spent.cached_tokens},
        "output_tokens": spent.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": spent.reasoning_tokens},
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
    }
