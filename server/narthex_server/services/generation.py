"""GenerationService over the text pipelines and the agent loop."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import generation_pb2 as wire

from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.events import Finished, ReasoningDelta, Started, TextDelta
from narthex_server.pipelines.generate import GeneratePipeline
from narthex_server.pipelines.models import Models
from narthex_server.pipelines.request import ChatRequest
from narthex_server.pipelines.tokens import decode, encode, encode_chat
from narthex_server.principal import REQUEST_ID
from narthex_server.services import convert
from narthex_server.services.call import check_options
from narthex_server.services.complete import complete
from narthex_server.text.messages import ToolCall
from narthex_server.tools.catalog import Catalog

Context = ServicerContext[Any, Any]


@complete(wire.DESCRIPTOR.services_by_name["GenerationService"])
class GenerationService:
    """Generates text; the unary calls are their streams, collected."""

    def __init__(self, models: Models, catalog: Catalog) -> None:
        self._models = models
        self._catalog = catalog

    async def GenerateStream(
        self, request: wire.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[wire.GenerateStreamResponse]:
        check_options(request.options)
        spec, request_id = request.spec, REQUEST_ID.get()
        model = self._models.get(spec.model)
        events = GeneratePipeline(model).stream(convert.generate_request(spec, request_id))
        async with aclosing(events):
            async for event in events:
                match event:
                    case Started():
                        started = convert.started_to_wire(event, request_id, model.name, spec.response)
                        yield wire.GenerateStreamResponse(started=started)
                    case TextDelta():
                        yield wire.GenerateStreamResponse(text_delta=convert.delta_to_wire(event, spec.response))
                    case Finished():
                        yield wire.GenerateStreamResponse(finished=convert.finished_to_wire(event))

    async def ChatStream(
        self, request: wire.ChatStreamRequest, context: Context
    ) -> AsyncIterator[wire.ChatStreamResponse]:
        check_options(request.options)
        spec, request_id = request.spec, REQUEST_ID.get()
        model = self._models.get(spec.model)
        events = ChatPipeline(model).stream(convert.chat_request(spec, request_id))
        async with aclosing(events):
            async for event in events:
                match event:
                    case Started():
                        started = convert.started_to_wire(event, request_id, model.name, spec.response)
                        yield wire.ChatStreamResponse(started=started)
                    case TextDelta():
                        yield wire.ChatStreamResponse(text_delta=convert.delta_to_wire(event, spec.response), round=1)
                    case ReasoningDelta(text):
                        yield wire.ChatStreamResponse(reasoning_delta=wire.ReasoningDelta(text=text), round=1)
                    case ToolCall():
                        yield wire.ChatStreamResponse(tool_call=convert.call_to_wire(event), round=1)
                    case Finished():
                        yield wire.ChatStreamResponse(finished=convert.finished_to_wire(event), round=1)

    async def Tokenize(self, request: wire.TokenizeRequest, context: Context) -> wire.TokenizeResponse:
        return wire.TokenizeResponse(token_ids=await self._tokens(request))

    async def CountTokens(self, request: wire.CountTokensRequest, context: Context) -> wire.CountTokensResponse:
        tokens = await self._tokens(request)
        return wire.CountTokensResponse(tokens=len(tokens), max_context=self._models.get(request.model).max_context)

    async def Detokenize(self, request: wire.DetokenizeRequest, context: Context) -> wire.DetokenizeResponse:
        skip = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
        text = await decode(self._models.get(request.model), request.token_ids, skip)
        return wire.DetokenizeResponse(text=text)

    async def _tokens(self, request: wire.TokenizeRequest | wire.CountTokensRequest) -> tuple[int, ...]:
        model = self._models.get(request.model)
        if request.WhichOneof("input") == "chat":
            chat = request.chat
            options = convert.template_options(chat.template_arguments)
            messages, tools = convert.messages_from(chat.messages), convert.tools_from(chat.tools)
            prompt = await encode_chat(model, ChatRequest(REQUEST_ID.get(), messages, tools, template_options=options))
            return prompt.ids
        special = request.add_special_tokens if request.HasField("add_special_tokens") else True
        return await encode(model, request.text, special)
