"""A real server of the contract that says what a test wants, and bridges in front of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from narthex.settings import Address
from narthex.v1 import common_pb2, generation_pb2, generation_pb2_grpc, tool_pb2, tool_pb2_grpc
from narthex_bridge.config.bridge import BridgeConfig

from tests.unit.bridge.tool_server import refuse

Event = generation_pb2.ChatStreamResponse


def started() -> Event:
    return Event(started=generation_pb2.Started(request_id="r1", model="tiny"))


def said(text: str) -> Event:
    return Event(text_delta=common_pb2.TextDelta(text=text), round=1)


def thought(text: str) -> Event:
    return Event(reasoning_delta=generation_pb2.ReasoningDelta(text=text), round=1)


def called(id: str, name: str, arguments: bytes = b"{}") -> Event:
    return Event(tool_call=generation_pb2.ToolCall(id=id, name=name, arguments=arguments), round=1)


def ran(id: str, name: str, content: bytes, is_error: bool = False) -> Event:
    result = tool_pb2.ToolResult(content=content, is_error=is_error)
    return Event(tool_result=generation_pb2.ToolCallResult(tool_call_id=id, name=name, result=result), round=1)


def finished(reason: str = "STOP", **more: Any) -> Event:
    usage = common_pb2.Usage(prompt_tokens=30, completion_tokens=7, cached_tokens=10, reasoning_tokens=3)
    number = common_pb2.FinishReason.Value(f"FINISH_REASON_{reason}")
    return Event(finished=common_pb2.Finished(finish_reason=number, usage=usage, **more), round=1)


@dataclass
class ChatServer(generation_pb2_grpc.GenerationServiceServicer, tool_pb2_grpc.ToolServiceServicer):
    """Tells `events`, in a stream or as one answer; fails with `failure` after them."""

    address: str = ""
    events: list[Event] = field(default_factory=lambda: [started(), said("Hello"), said(" there"), finished()])
    failure: tuple[int, str, str] | None = None
    hangs: bool = False
    asked: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    told: int = 0
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def spec(self) -> generation_pb2.ChatSpec:
        """The last chat asked for."""
        return self.asked[-1].spec

    async def ChatStream(self, request: Any, context: Any) -> AsyncIterator[Event]:
        self._note(request, context)
        try:
            for event in self.events:
                yield event
                self.told += 1
            await self._end(context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def Chat(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        try:
            await self._end(context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        answer = generation_pb2.ChatResponse(request_id="r1", model="tiny")
        turn = answer.messages.add(role=generation_pb2.ROLE_ASSISTANT)
        for event in self.events:
            turn.reasoning += event.reasoning_delta.text
            if event.text_delta.text:
                turn.content.add(text=event.text_delta.text)
            if event.tool_call.id:
                turn.tool_calls.append(event.tool_call)
            answer.finished.MergeFrom(event.finished)
        return answer

    async def CountTokens(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        await self._end(context)
        return generation_pb2.CountTokensResponse(tokens=42, max_context=2048)

    async def ListTools(self, request: Any, context: Any) -> Any:
        pages = {"": [("chat", ""), ("time__now", "time")], "2": [("time__convert", "time"), ("git__log", "git")]}
        tools = [tool_pb2.Tool(name=name, server=server) for name, server in pages[request.page_token]]
        return tool_pb2.ListToolsResponse(tools=tools, next_page_token="" if request.page_token else "2")

    async def WatchTools(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield tool_pb2.WatchToolsResponse(catalog_version=1)
        await asyncio.Event().wait()

    def _note(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))

    async def _end(self, context: Any) -> None:
        if self.hangs:
            self.hanging.set()
            await asyncio.Event().wait()
        if self.failure is not None:
            code, reason, text = self.failure
            await refuse(context, code, reason, text)


@pytest.fixture
async def chats() -> AsyncIterator[ChatServer]:
    server, service = grpc.aio.server(), ChatServer()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    tool_pb2_grpc.add_ToolServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(0)


@pytest.fixture
def config(chats: ChatServer) -> BridgeConfig:
    return BridgeConfig(http=Address("127.0.0.1", 0), server=Address.parse(chats.address), shutdown_grace=0.2)


class Say:
    """The events a test may want the server to tell."""

    started, said, thought = staticmethod(started), staticmethod(said), staticmethod(thought)
    called, ran, finished = staticmethod(called), staticmethod(ran), staticmethod(finished)


@pytest.fixture
def say() -> type[Say]:
    return Say
