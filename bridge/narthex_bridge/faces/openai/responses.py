"""POST /v1/responses: a chat as items."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.faces.adapters import adapters
from narthex_bridge.faces.body import Fields, fields
from narthex_bridge.faces.constraint import constraint, text_format
from narthex_bridge.faces.openai.asked import Asked
from narthex_bridge.faces.openai.background import Background
from narthex_bridge.faces.openai.chat import streaming
from narthex_bridge.faces.openai.items import conversation
from narthex_bridge.faces.openai.order import ResponseOrder
from narthex_bridge.faces.openai.output import Output
from narthex_bridge.faces.openai.stopping import stopping
from narthex_bridge.faces.openai.tools import Tools, choose, spec, with_catalog
from narthex_bridge.faces.openai.upstreams import Upstreams
from narthex_bridge.faces.options import call_options
from narthex_bridge.faces.policy import settle
from narthex_bridge.faces.reasoning import effort_of, reasoning
from narthex_bridge.faces.sampling import sampling
from narthex_bridge.faces.stream import Stream
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse, event_stream
from narthex_bridge.server.backend import Backend
from narthex_bridge.server.inference import Inference

_LOGPROBS = "message.output_text.logprobs"
# What a response repeats of its request, and what stands there where the request has nothing.
_REPEATED: Mapping[str, Any] = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True, "reasoning": None,
    "temperature": None, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [],
    "top_logprobs": None, "top_p": None, "user": None,
}  # fmt: skip
_FIXED: Mapping[str, Any] = {"previous_response_id": None, "truncation": "disabled"}


class ResponsesEndpoint:
    """Answers with a response, whole or event by event, or with one that is yet to be made."""

    def __init__(
        self, config: BridgeConfig, inference: Inference, backend: Backend, work: Work, background: Background
    ) -> None:
        self._config = config
        self._inference = inference
        self._upstreams = Upstreams(backend)
        self._work = work
        self._background = background

    async def post(self, http: HttpRequest) -> HttpResponse:
        order = await self._order(fields(http.body), http)
        if order.background:
            return await self._background.begin(http, order)
        request = wire.ChatStreamRequest(spec=order.chat, options=order.options)
        events = self._inference.chat_stream(http.caller, http.request_id, request)
        output = Output(http.request_id, order.asked, int(time.time()))
        if not order.stream:
            output.tell(await self._work.run(_all(events)))
            output.end()
            return HttpResponse(200, orjson.dumps(output.response()), headers=order.headers)
        stream = Stream[wire.ChatStreamResponse](output, self._config.keepalive_s, http.request_id)
        await stream.open(self._work, events, self._config.stream_after_s)
        return event_stream(stream, stream.tally, order.headers)

    async def _order(self, body: Fields, http: HttpRequest) -> ResponseOrder:
        background, store = bool(body.flag("background")), body.flag("store")
        if store and not background:
            raise body.fault("store", "must be false: responses are not kept here, but for those of the background")
        if background and store is False:
            raise body.fault("store", "must not be false with background: the response waits until it is asked for")
        tools, labels = await self._tools(body, http)
        thinking = body.object("reasoning")
        level = effort_of(thinking, "effort") if thinking is not None else None
        options, variables = reasoning(body, level)
        stream, _ = streaming(body)
        chat = wire.ChatSpec(
            model=body.text("model") or "",
            messages=conversation(body),
            sampling=sampling(body),
            stopping=stopping(body, "max_output_tokens"),
            response=_shown(body),
            constraint=_constraint(body),
            adapters=adapters(body),
            reasoning=options,
            template_arguments=variables,
        )
        tools.fill(chat)
        repeated = {
            name: orjson.Fragment(body.written(name)) if name in body else none for name, none in _REPEATED.items()
        }
        kept = {**repeated, **_FIXED, "background": background, "store": background}
        asked = Asked(chat.model, kept, tools, labels)
        return ResponseOrder(chat, call_options(http, body), asked, background, stream, settle(body))

    async def _tools(self, body: Fields, http: HttpRequest) -> tuple[Tools, Mapping[str, str]]:
        """The tools of all kinds, and the MCP servers of the catalog's."""
        own: list[wire.ToolSpec] = []
        labels: dict[str, str] = {}
        for tool in body.objects("tools"):
            match tool.needed_text("type"):
                case "function":
                    own.append(spec(tool))
                case "mcp":
                    labels |= await self._upstreams.tools(tool, http.caller, http.request_id)
                case kind:
                    raise tool.fault("type", f"{kind!r:.40} is not supported here: use function, or mcp")
        remaining, choice = choose(body, own)
        return with_catalog(body, remaining, choice, list(labels)), labels


async def _all(events: AsyncGenerator[wire.ChatStreamResponse, None]) -> list[wire.ChatStreamResponse]:
    async with aclosing(events):
        return [event async for event in events]


def _shown(body: Fields) -> wire.ResponseOptions:
    most = body.whole("top_logprobs")
    wanted = bool(most) or _LOGPROBS in body.texts("include")
    return wire.ResponseOptions(logprobs=(most or 0) if wanted else None)


def _constraint(body: Fields) -> wire.Constraint | None:
    text = body.object("text")
    if text is not None:
        if text.one_of("verbosity", "low", "medium", "high") not in (None, "medium"):
            raise text.fault("verbosity", "is not supported here")
        chosen = text.object("format")
        if chosen is not None and (rule := text_format(chosen)) is not None:
            return rule
    return constraint(body)
