"""The calls that the benchmark makes, each served by a thread of its own."""

import json
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import closing, suppress
from typing import TypeVar, cast

import grpc
from narthex.v1 import generation_pb2 as generation
from narthex.v1 import generation_pb2_grpc as generation_grpc
from narthex.v1 import tool_pb2 as tool
from narthex.v1 import tool_pb2_grpc as tool_grpc
from narthex_server.agent.events import AgentEvent
from narthex_server.errors import NarthexError
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.events import ChatEvent
from narthex_server.pipelines.models import TextModel
from narthex_server.services import replies, requests

from bench.peers.plain.model import PlainModel
from bench.peers.plain.model_router import ModelRouter
from bench.peers.plain.upstream import PlainUpstream

T = TypeVar("T")


class PlainGeneration(generation_grpc.GenerationServiceServicer):
    """ChatStream by narthex's own pipeline: template, tokens, text and calls are the same code."""

    def __init__(self, router: ModelRouter) -> None:
        self._router = router

    def ChatStream(
        self, request: generation.ChatStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[generation.ChatStreamResponse]:
        spec, name = request.spec, uuid.uuid4().hex
        try:
            with self._router.use(spec.model) as model, closing(turn(model, spec, name)) as events:
                for event in events:
                    yield replies.agent_event_to_wire(AgentEvent(1, event), name, model.name, spec.response)
        except NarthexError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)


class PlainTools(tool_grpc.ToolServiceServicer):
    """CallTool of one upstream each."""

    def __init__(self, upstreams: Mapping[str, PlainUpstream]) -> None:
        self._upstreams = upstreams

    def CallTool(self, request: tool.CallToolRequest, context: grpc.ServicerContext) -> Iterator[tool.CallToolResponse]:
        server, _, name = request.name.partition("__")
        found = self._upstreams[server].ask("tools/call", {"name": name, "arguments": json.loads(request.arguments)})
        result = tool.ToolResult(content=json.dumps(found["content"]).encode(), is_error=found["isError"])
        yield tool.CallToolResponse(result=result)


def turn(model: PlainModel, spec: generation.ChatSpec, name: str) -> Generator[ChatEvent]:
    pipeline = ChatPipeline(cast(TextModel, model))
    return blocking(pipeline.stream(requests.chat_request(spec, name)))


def blocking(events: AsyncGenerator[T]) -> Generator[T]:
    """Of a generator whose awaits all block: its events, in this thread and without an event loop."""
    try:
        while True:
            try:
                events.__anext__().send(None)  # type: ignore[attr-defined]
            except StopIteration as event:
                yield event.value
            except StopAsyncIteration:
                return
    finally:
        with suppress(StopIteration, StopAsyncIteration):
            events.aclose().send(None)  # type: ignore[attr-defined]
