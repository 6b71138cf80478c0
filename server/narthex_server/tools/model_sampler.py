"""The models of this server as an answer to MCP's sampling requests."""

import json
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from itertools import count
from typing import Any

from narthex_server.errors import InvalidRequest, Violation
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.events import Finished, FinishReason, TextDelta
from narthex_server.pipelines.models import Models, TextModel
from narthex_server.pipelines.request import ChatRequest, SamplingOptions, StoppingOptions, ToolChoice
from narthex_server.text.messages import Message, ToolCall, ToolSpec
from narthex_server.tools.tool import CallContext


class ModelSampler:
    """A Sampler over the text models that are served: the first that a hint names a part of, else the default one."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._numbers = count(1)  # an upstream may ask several times within a call, also at once

    async def sample(self, params: Mapping[str, Any], context: CallContext) -> dict[str, Any]:
        """Errors: InvalidRequest for pictures and sound; those of the pipeline and of choosing a model."""
        request = _request(params, f"{context.request_id}/sampling/{next(self._numbers)}")
        said, calls = "", list[ToolCall]()
        async with (
            self._models.use(self._named(params)) as model,
            aclosing(ChatPipeline(model).stream(request)) as events,
        ):
            async for event in events:
                match event:
                    case TextDelta(text):
                        said += text
                    case ToolCall():
                        calls.append(event)
                    case Finished():
                        return _result(model.name, said, calls, event)
        raise AssertionError("a turn without an end")

    def _named(self, params: Mapping[str, Any]) -> str:
        names = [model.name for model in self._models.of(TextModel)]
        for hint in (params.get("modelPreferences") or {}).get("hints") or ():
            wanted = str(hint.get("name") or "").lower()
            for name in names:
                if wanted and wanted in name.lower():
                    return name
        return ""


def _request(params: Mapping[str, Any], request_id: str) -> ChatRequest:
    system = params.get("systemPrompt")
    temperature = params.get("temperature")
    return ChatRequest(
        request_id=request_id,
        messages=(
            *((Message("system", system),) if system else ()),
            *(turn for index, message in enumerate(params["messages"]) for turn in _turns(message, index)),
        ),
        tools=tuple(
            ToolSpec(tool["name"], tool.get("description") or "", json.dumps(tool.get("inputSchema") or {}))
            for tool in params.get("tools") or ()
        ),
        tool_choice=ToolChoice((params.get("toolChoice") or {}).get("mode") or "auto"),
        sampling=SamplingOptions() if temperature is None else SamplingOptions(temperature=temperature),
        stopping=StoppingOptions(params["maxTokens"], tuple(params.get("stopSequences") or ()), fit_context=True),
    )


def _turns(message: Mapping[str, Any], index: int) -> Iterator[Message]:
    """A message as turns of ours: results of tools are turns of their own, and come before what is said with them."""
    content = message["content"]
    blocks = content if isinstance(content, list) else [content]
    calls: list[ToolCall] = []
    for block in blocks:
        match block:
            case {"type": "tool_use", "id": identifier, "name": name}:
                calls.append(ToolCall(identifier, name, json.dumps(block.get("input") or {})))
            case {"type": "tool_result", "toolUseId": identifier}:
                yield Message("tool", _text(block.get("content") or (), index), tool_call_id=identifier)
    if text := _text([block for block in blocks if block.get("type") not in ("tool_use", "tool_result")], index):
        yield Message(message["role"], text, tuple(calls))
    elif calls:
        yield Message(message["role"], "", tuple(calls))


def _text(blocks: Any, index: int) -> str:
    texts = []
    for block in blocks:
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case _:
                field, problem = f"messages[{index}].content", "must be text; this model takes nothing else"
                raise InvalidRequest(f"{field} {problem}", violations=(Violation(field, problem),))
    return "\n".join(texts)


def _result(model: str, text: str, calls: list[ToolCall], end: Finished) -> dict[str, Any]:
    said = {"type": "text", "text": text}
    used = [
        {
            "type": "tool_use",
            "id": call.id,
            "name": call.name,
            "input": json.loads(call.arguments or "{}", strict=False),
        }
        for call in calls
    ]
    content = [*([said] if text else []), *used] if used else said
    return {"role": "assistant", "content": content, "model": model, "stopReason": _reason(end)}


def _reason(end: Finished) -> str:
    match end.reason:
        case FinishReason.LENGTH:
            return "maxTokens"
        case FinishReason.TOOL_CALLS:
            return "toolUse"
        case _:
            return "endTurn" if end.stop_string is None else "stopSequence"
