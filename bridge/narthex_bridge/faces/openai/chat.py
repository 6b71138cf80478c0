"""POST /v1/chat/completions."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.faces.adapters import adapters
from narthex_bridge.faces.body import Fields, fields
from narthex_bridge.faces.constraint import constraint
from narthex_bridge.faces.openai.calls import served_call, tool_call
from narthex_bridge.faces.openai.chunks import ChatChunks
from narthex_bridge.faces.openai.logprobs import token_logprobs
from narthex_bridge.faces.openai.messages import messages
from narthex_bridge.faces.openai.stopping import stopping
from narthex_bridge.faces.openai.tools import Tools, chat_tools
from narthex_bridge.faces.openai.usage import finish_reason, usage
from narthex_bridge.faces.options import call_options
from narthex_bridge.faces.policy import settle
from narthex_bridge.faces.reasoning import effort_of, reasoning
from narthex_bridge.faces.sampling import sampling
from narthex_bridge.faces.stream import Stream
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse, event_stream
from narthex_bridge.http.refusal import Headers
from narthex_bridge.server.inference import Inference


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """A chat that was asked for, and how its answer is to be told."""

    spec: wire.ChatSpec
    tools: Tools
    stream: bool
    include_usage: bool
    headers: Headers


class ChatEndpoint:
    """Answers with the next turn, whole or in chunks."""

    def __init__(self, config: BridgeConfig, inference: Inference, work: Work) -> None:
        self._config = config
        self._inference = inference
        self._work = work

    async def post(self, http: HttpRequest) -> HttpResponse:
        body = fields(http.body)
        options, order = call_options(http, body), chat_order(body)
        if order.stream:
            return await self._stream(http, order, options)
        asked = wire.ChatRequest(spec=order.spec, options=options)
        reply = await self._work.run(self._inference.chat(http.caller, http.request_id, asked))
        return HttpResponse(200, completion(reply, order.tools), headers=order.headers)

    async def _stream(self, http: HttpRequest, order: ChatOrder, options: common.CallOptions) -> HttpResponse:
        asked = wire.ChatStreamRequest(spec=order.spec, options=options)
        shown = order.spec.response
        scored = shown.HasField("logprobs") or shown.token_ids
        chunks = ChatChunks(order.tools, order.spec.n or 1, scored=scored, include_usage=order.include_usage)
        stream = Stream[wire.ChatStreamResponse](chunks, self._config.keepalive_s, http.request_id)
        events = self._inference.chat_stream(http.caller, http.request_id, asked)
        await stream.open(self._work, events, self._config.stream_after_s)
        return event_stream(stream, stream.tally, order.headers)


def chat_order(body: Fields) -> ChatOrder:
    """Raises Refusal where the request is not one that can be answered."""
    tools = chat_tools(body)
    thinking, variables = reasoning(body, effort_of(body, "reasoning_effort"))
    spec = wire.ChatSpec(
        model=body.text("model") or "",
        messages=messages(body),
        sampling=sampling(body),
        stopping=stopping(body, "max_completion_tokens", "max_tokens"),
        response=_response(body),
        constraint=constraint(body),
        adapters=adapters(body),
        reasoning=thinking,
        template_arguments=variables,
        n=body.whole("n"),
    )
    tools.fill(spec)
    stream, include_usage = streaming(body)
    return ChatOrder(spec, tools, stream, include_usage, settle(body))


def streaming(body: Fields) -> tuple[bool, bool]:
    """Whether the answer comes in chunks, and whether the last of them tells its cost."""
    options = body.object("stream_options")
    include_usage = options is not None and bool(options.flag("include_usage"))
    return bool(body.flag("stream")), include_usage


def completion(reply: wire.ChatResponse, tools: Tools) -> bytes:
    """The body of a whole answer."""
    choices = [_choice(0, reply.messages, reply, tools)]
    for index, further in enumerate(reply.further_completions, 1):
        choices.append(_choice(index, [further.message], further, tools))
    made: dict[str, Any] = {
        "id": f"chatcmpl-{reply.request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": reply.model,
        "choices": choices,
        "usage": usage(reply.finished.usage),
    }
    if reply.prompt.token_ids:
        made["prompt_token_ids"] = list(reply.prompt.token_ids)
    return orjson.dumps(made)


def _response(body: Fields) -> wire.ResponseOptions:
    wanted, most = body.flag("logprobs"), body.whole("top_logprobs")
    if most and not wanted:
        raise body.fault("top_logprobs", "needs logprobs to be true")
    token_ids = bool(body.flag("return_token_ids"))
    return wire.ResponseOptions(
        logprobs=(most or 0) if wanted else None,
        token_ids=token_ids,
        prompt_token_ids=token_ids,
        skip_special_tokens=body.flag("skip_special_tokens"),
    )


def _choice(
    index: int,
    turns: Iterable[wire.ChatMessage],
    end: wire.ChatResponse | wire.ChatCompletion,
    tools: Tools,
) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": index,
        "message": _message(list(turns), tools),
        "logprobs": {"content": token_logprobs(end.logprobs), "refusal": None} if end.logprobs else None,
        "finish_reason": finish_reason(end.finished),
    }
    if end.token_ids:
        choice["token_ids"] = list(end.token_ids)
    return choice


def _message(turns: list[wire.ChatMessage], tools: Tools) -> dict[str, Any]:
    """One message out of all rounds, as a stream's chunks add up to it."""
    results = {turn.tool_call_id: turn for turn in turns if turn.role == wire.ROLE_TOOL}
    said = [turn for turn in turns if turn.role == wire.ROLE_ASSISTANT]
    calls = [call for turn in said for call in turn.tool_calls]
    text = "".join(part.text for turn in said for part in turn.content)
    thoughts = "".join(turn.reasoning for turn in said)
    mine = [call for call in calls if tools.theirs(call.name)][: 1 if tools.one_call else None]
    served = [call for call in calls if call.id in results and not tools.theirs(call.name)]
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if mine else ""), "refusal": None}
    if thoughts:
        message["reasoning_content"] = thoughts
    if mine:
        message["tool_calls"] = [tool_call(call) for call in mine]
    if served:
        message["server_tool_calls"] = [
            served_call(call, "".join(part.text for part in results[call.id].content)) for call in served
        ]
    return message
