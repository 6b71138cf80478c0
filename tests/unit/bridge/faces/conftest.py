"""A real server of the public contract whose models say what a test has them say, and a bridge in front of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from narthex.settings import Address
from narthex.v1 import (
    common_pb2,
    embedding_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
)
from narthex_bridge.config.bridge import BridgeConfig

from tests.unit.bridge.tool_server import refuse


@dataclass(frozen=True)
class Fault:
    """A status that ends a call, with the details that the real server gives."""

    code: int
    reason: str
    text: str
    fields: tuple[str, ...] = ()

    async def raise_in(self, context: Any) -> None:
        bad = error_details_pb2.BadRequest()
        for name in self.fields:
            bad.field_violations.add(field=name, description="is wrong")
        await refuse(context, self.code, self.reason, self.text, bad)


@dataclass
class ModelServer(
    generation_pb2_grpc.GenerationServiceServicer,
    embedding_pb2_grpc.EmbeddingServiceServicer,
    model_pb2_grpc.ModelServiceServicer,
    tool_pb2_grpc.ToolServiceServicer,
):
    """What it was asked can be seen in `asked`; what it answers is `events` or `reply`, or `fault` after them.

    With `holds` it waits after its events until it is cancelled.
    """

    address: str = ""
    events: list[Any] = field(default_factory=list)
    reply: Any = None
    fault: Fault | None = None
    holds: bool = False
    asked: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    written: int = 0

    @property
    def spec(self) -> Any:
        """Of the only request that there was."""
        (asked,) = self.asked
        return asked.spec

    async def ChatStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for event in self._stream(request, context):
            yield event

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for event in self._stream(request, context):
            yield event

    async def Chat(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context)

    async def Generate(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context)

    async def Embed(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context)

    async def ListModels(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context)

    async def GetModel(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context)

    async def ListTools(self, request: Any, context: Any) -> Any:
        names = {"": ("clock__now", "clock"), "2": ("clock__zone", "clock")}
        name, server = names[request.page_token]
        tools = [tool_pb2.Tool(name=name, server=server), tool_pb2.Tool(name="chat")]
        return tool_pb2.ListToolsResponse(tools=tools, next_page_token="" if request.page_token else "2")

    async def WatchTools(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield tool_pb2.WatchToolsResponse()

    async def _stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._note(request, context)
        try:
            for event in self.events:
                yield event
                self.written += 1
            await self._end(context)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def _answer(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        try:
            await self._end(context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return self.reply

    async def _end(self, context: Any) -> None:
        if self.fault is not None:
            await self.fault.raise_in(context)
        if self.holds:
            self.holding.set()
            await asyncio.Event().wait()

    def _note(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))


@pytest.fixture
async def models() -> AsyncIterator[ModelServer]:
    server, service = grpc.aio.server(), ModelServer()
    for add in (
        generation_pb2_grpc.add_GenerationServiceServicer_to_server,
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server,
        model_pb2_grpc.add_ModelServiceServicer_to_server,
        tool_pb2_grpc.add_ToolServiceServicer_to_server,
    ):
        add(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(0)


@pytest.fixture
def config(models: ModelServer) -> BridgeConfig:
    return BridgeConfig(http=Address("127.0.0.1", 0), server=Address.parse(models.address), shutdown_grace=1.0)


@pytest.fixture
def fault() -> type[Fault]:
    return Fault


@pytest.fixture
def codes() -> Any:
    return code_pb2


def usage(prompt: int = 5, completion: int = 3, **more: int) -> common_pb2.Usage:
    return common_pb2.Usage(prompt_tokens=prompt, completion_tokens=completion, **more)


class Said:
    """Short ways to say what a chat's events are."""

    STOP, LENGTH, TOOL_CALLS = (
        common_pb2.FINISH_REASON_STOP,
        common_pb2.FINISH_REASON_LENGTH,
        common_pb2.FINISH_REASON_TOOL_CALLS,
    )

    @staticmethod
    def started(**prompt: Any) -> generation_pb2.ChatStreamResponse:
        started = generation_pb2.Started(request_id="r1", model="m", prompt=generation_pb2.PromptInfo(**prompt))
        return generation_pb2.ChatStreamResponse(started=started)

    @staticmethod
    def text(text: str, index: int = 0, round: int = 1, **more: Any) -> generation_pb2.ChatStreamResponse:
        delta = common_pb2.TextDelta(text=text, **more)
        return generation_pb2.ChatStreamResponse(text_delta=delta, index=index, round=round)

    @staticmethod
    def thought(text: str) -> generation_pb2.ChatStreamResponse:
        return generation_pb2.ChatStreamResponse(reasoning_delta=generation_pb2.ReasoningDelta(text=text), round=1)

    @staticmethod
    def begun(id: str, name: str) -> generation_pb2.ChatStreamResponse:
        return generation_pb2.ChatStreamResponse(tool_call_started=generation_pb2.ToolCallStarted(id=id, name=name))

    @staticmethod
    def call(id: str, name: str, arguments: bytes = b"{}") -> generation_pb2.ChatStreamResponse:
        made = generation_pb2.ToolCall(id=id, name=name, arguments=arguments)
        return generation_pb2.ChatStreamResponse(tool_call=made, round=1)

    @staticmethod
    def result(id: str, name: str, content: bytes, is_error: bool = False) -> generation_pb2.ChatStreamResponse:
        result = tool_pb2.ToolResult(content=content, is_error=is_error)
        made = generation_pb2.ToolCallResult(tool_call_id=id, name=name, result=result)
        return generation_pb2.ChatStreamResponse(tool_result=made, round=1)

    @staticmethod
    def finished(reason: Any = STOP, index: int = 0, round: int = 1) -> generation_pb2.ChatStreamResponse:
        finished = common_pb2.Finished(finish_reason=reason, usage=usage(cached_tokens=2, reasoning_tokens=1))
        return generation_pb2.ChatStreamResponse(finished=finished, index=index, round=round)

    @staticmethod
    def position(token: str, logprob: float, *candidates: tuple[str, float]) -> common_pb2.PositionLogprobs:
        def scored(token: str, logprob: float) -> common_pb2.TokenLogprob:
            return common_pb2.TokenLogprob(token=token.encode(), logprob=logprob)

        return common_pb2.PositionLogprobs(
            chosen=scored(token, logprob), candidates=[scored(*candidate) for candidate in candidates]
        )


@pytest.fixture
def said() -> type[Said]:
    return Said
