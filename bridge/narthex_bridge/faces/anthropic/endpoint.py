"""/v1/messages and /v1/messages/count_tokens."""

from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.faces.anthropic import narration, request, tools
from narthex_bridge.faces.anthropic.face import AnthropicFace, id_header
from narthex_bridge.faces.anthropic.narration import MessageStream, Narrator
from narthex_bridge.faces.anthropic.request import MessageRequest
from narthex_bridge.faces.anthropic.tools import Upstreams
from narthex_bridge.faces.body import Fields, fields
from narthex_bridge.faces.options import call_options
from narthex_bridge.faces.stream import Stream
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse, Tally, event_stream
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.server.backend import Backend
from narthex_bridge.server.inference import Inference


class MessagesEndpoint:
    """Messages are chats of the server; closing an answer ends the chat at once."""

    def __init__(
        self, config: BridgeConfig, inference: Inference, backend: Backend, work: Work, face: AnthropicFace
    ) -> None:
        self._config = config
        self._inference = inference
        self._backend = backend
        self._work = work
        self._face = face

    async def create(self, http: HttpRequest) -> HttpResponse:
        return await self._answered(http, self._create(http))

    async def count_tokens(self, http: HttpRequest) -> HttpResponse:
        return await self._answered(http, self._count_tokens(http))

    async def _answered(self, http: HttpRequest, answer: Awaitable[HttpResponse]) -> HttpResponse:
        """The answer, or a refusal that names the request, as this API's do."""
        try:
            return await answer
        except BackendError as failure:
            return self._face.refuse(Refusal.of(failure), http.request_id)
        except Refusal as refusal:
            return self._face.refuse(refusal, http.request_id)

    async def _create(self, http: HttpRequest) -> HttpResponse:
        body = fields(http.body)
        options = call_options(http, body)
        asked = request.read(body, await self._upstreams(http, body))
        if asked.stream:
            return await self._stream(http, asked, options)
        return await self._whole(http, asked, options)

    async def _count_tokens(self, http: HttpRequest) -> HttpResponse:
        asked = request.count(fields(http.body))
        counted = await self._inference.count_tokens(http.caller, http.request_id, asked)
        body = orjson.dumps({"input_tokens": counted.tokens})
        return HttpResponse(200, body, headers=id_header(http.request_id))

    async def _upstreams(self, http: HttpRequest, body: Fields) -> Upstreams:
        """Those that the request names."""
        found = {}
        for server in tools.upstreams(body):
            found[server] = sorted(await self._backend.upstream_tools(http.caller, http.request_id, server))
        return Upstreams(found)

    async def _stream(self, http: HttpRequest, asked: MessageRequest, options: common.CallOptions) -> HttpResponse:
        told = MessageStream(_narrator(asked), http.request_id)
        stream: Stream[wire.ChatStreamResponse] = Stream(told, self._config.keepalive_s, http.request_id)
        await stream.open(self._work, self._events(http, asked, options), self._config.stream_after_s)
        return event_stream(stream, stream.tally, (*id_header(http.request_id), *asked.headers))

    async def _whole(self, http: HttpRequest, asked: MessageRequest, options: common.CallOptions) -> HttpResponse:
        if asked.spec.tool_execution == wire.TOOL_EXECUTION_SERVER:
            # Only its events tell how the server's calls went.
            events = await self._work.run(_collected(self._events(http, asked, options)))
        else:
            chat = wire.ChatRequest(spec=asked.spec, options=options)
            answer = await self._work.run(self._inference.chat(http.caller, http.request_id, chat))
            events = list(narration.of_answer(answer))
        message = narration.message(_narrator(asked).tell(events))
        headers = (*id_header(http.request_id), *asked.headers)
        return HttpResponse(200, orjson.dumps(message), headers=headers, tally=Tally(events=1))

    def _events(
        self, http: HttpRequest, asked: MessageRequest, options: common.CallOptions
    ) -> AsyncGenerator[wire.ChatStreamResponse, None]:
        chat = wire.ChatStreamRequest(spec=asked.spec, options=options)
        return self._inference.chat_stream(http.caller, http.request_id, chat)


async def _collected(events: AsyncGenerator[wire.ChatStreamResponse, None]) -> list[wire.ChatStreamResponse]:
    async with aclosing(events):
        return [event async for event in events]


def _narrator(asked: MessageRequest) -> Narrator:
    server_runs = asked.spec.tool_execution == wire.TOOL_EXECUTION_SERVER
    return Narrator(asked.own_tools, asked.single_call, asked.shows_thoughts, server_runs)
