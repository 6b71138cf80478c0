"""A real server in this process, with a servicer that answers from what it is asked."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status
from narthex import Client
from narthex.v1 import (
    common_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
)

TOOLS = ["chat", "generate", "time__now"]


def packed(message: object) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


@dataclass
class Generation(generation_pb2_grpc.GenerationServiceServicer):
    """Echoes words; `forever` never ends, `hot` has a temperature out of range."""

    left: asyncio.Event = field(default_factory=asyncio.Event)
    metadata: dict = field(default_factory=dict)

    async def Generate(self, request, context):
        self.metadata = dict(context.invocation_metadata())
        if request.spec.sampling.temperature < 0:
            field_at_fault = error_details_pb2.BadRequest.FieldViolation(
                field="sampling.temperature", description="is -1, must be at least 0"
            )
            status = status_pb2.Status(
                code=code_pb2.INVALID_ARGUMENT,
                message="one field is at fault",
                details=[
                    packed(
                        error_details_pb2.ErrorInfo(reason="BAD_SAMPLING", domain="narthex", metadata={"least": "0"})
                    ),
                    packed(error_details_pb2.BadRequest(field_violations=[field_at_fault])),
                ],
            )
            await context.abort_with_status(rpc_status.to_status(status))
        return generation_pb2.GenerateResponse(model=request.spec.model, text=request.spec.text.upper())

    async def ChatStream(self, request, context):
        text = request.spec.messages[-1].content[0].text
        yield generation_pb2.ChatStreamResponse(started=generation_pb2.Started(request_id="r1", model="echo"))
        for word in text.split():
            yield generation_pb2.ChatStreamResponse(text_delta=common_pb2.TextDelta(text=word), round=1)
        if text == "forever":
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        finished = common_pb2.Finished(finish_reason=common_pb2.FINISH_REASON_STOP)
        yield generation_pb2.ChatStreamResponse(finished=finished, round=1)


class Embedding(embedding_pb2_grpc.EmbeddingServiceServicer):
    """The vector of a text is its length."""

    async def Embed(self, request, context):
        made = [embedding_pb2.Embedding(values=[len(one.text)], tokens=1) for one in request.spec.inputs]
        return embedding_pb2.EmbedResponse(model=request.spec.model, embeddings=made)


class Models(model_pb2_grpc.ModelServiceServicer):
    async def ListModels(self, request, context):
        return model_pb2.ListModelsResponse(models=[model_pb2.Model(name="echo", max_context=512)])


class Tools(tool_pb2_grpc.ToolServiceServicer):
    """Lists one tool a page; a call gives its arguments back, and `silent` nothing at all."""

    async def ListTools(self, request, context):
        index = int(request.page_token or 0)
        more = str(index + 1) if index + 1 < len(TOOLS) else ""
        return tool_pb2.ListToolsResponse(tools=[tool_pb2.Tool(name=TOOLS[index])], next_page_token=more)

    async def CallTool(self, request, context):
        if request.name not in [*TOOLS, "silent"]:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no tool {request.name}")
        yield tool_pb2.CallToolResponse(progress=tool_pb2.Progress(progress=0.5, total=1))
        if request.name != "silent":
            yield tool_pb2.CallToolResponse(result=tool_pb2.ToolResult(structured_content=request.arguments))

    async def CallTools(self, request, context):
        """In the opposite order; a tool that is not there fails alone."""
        for index, call in reversed(list(enumerate(request.calls))):
            if call.name in TOOLS:
                result = tool_pb2.ToolResult(structured_content=call.arguments)
                event = tool_pb2.CallToolResponse(result=result)
                yield tool_pb2.CallToolsResponse(index=index, event=event)
            elif call.name != "silent":
                failure = tool_pb2.ToolFailure(code=5, reason="TOOL_NOT_FOUND", message=f"no tool {call.name}")
                yield tool_pb2.CallToolsResponse(index=index, failure=failure)


@dataclass
class Running:
    target: str
    generation: Generation


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    generation = Generation()
    server = aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(Embedding(), server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    tool_pb2_grpc.add_ToolServiceServicer_to_server(Tools(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Running(f"127.0.0.1:{port}", generation)
    await server.stop(0)


@pytest.fixture
async def client(server: Running) -> AsyncIterator[Client]:
    async with Client(server.target, api_key="secret", timeout=20) as client:
        yield client
