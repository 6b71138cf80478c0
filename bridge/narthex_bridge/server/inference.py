"""The server's models, seen through its public contract."""

from collections.abc import AsyncGenerator

from narthex.v1 import embedding_pb2, embedding_pb2_grpc, generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

from narthex_bridge.caller import Caller
from narthex_bridge.server.connection import Connection


class Inference:
    """GenerationService, EmbeddingService and ModelService; every failure is a BackendError fit for clients."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._generation = generation_pb2_grpc.GenerationServiceStub(connection.channel)
        self._embedding = embedding_pb2_grpc.EmbeddingServiceStub(connection.channel)
        self._models = model_pb2_grpc.ModelServiceStub(connection.channel)

    async def chat(
        self, caller: Caller, request_id: str, request: generation_pb2.ChatRequest
    ) -> generation_pb2.ChatResponse:
        return await self._connection.work(self._generation.Chat, request, caller, request_id)

    def chat_stream(
        self, caller: Caller, request_id: str, request: generation_pb2.ChatStreamRequest
    ) -> AsyncGenerator[generation_pb2.ChatStreamResponse, None]:
        """Closing the iterator cancels the work at once."""
        return self._connection.stream(self._generation.ChatStream, request, caller, request_id)

    async def generate(
        self, caller: Caller, request_id: str, request: generation_pb2.GenerateRequest
    ) -> generation_pb2.GenerateResponse:
        return await self._connection.work(self._generation.Generate, request, caller, request_id)

    def generate_stream(
        self, caller: Caller, request_id: str, request: generation_pb2.GenerateStreamRequest
    ) -> AsyncGenerator[generation_pb2.GenerateStreamResponse, None]:
        """Closing the iterator cancels the work at once."""
        return self._connection.stream(self._generation.GenerateStream, request, caller, request_id)

    async def count_tokens(
        self, caller: Caller, request_id: str, request: generation_pb2.CountTokensRequest
    ) -> generation_pb2.CountTokensResponse:
        return await self._connection.ask(self._generation.CountTokens, request, caller, request_id)

    async def embed(
        self, caller: Caller, request_id: str, request: embedding_pb2.EmbedRequest
    ) -> embedding_pb2.EmbedResponse:
        return await self._connection.work(self._embedding.Embed, request, caller, request_id)

    async def list_models(
        self, caller: Caller, request_id: str, request: model_pb2.ListModelsRequest, limit_s: float | None = None
    ) -> model_pb2.ListModelsResponse:
        return await self._connection.ask(self._models.ListModels, request, caller, request_id, limit_s)

    async def get_model(
        self, caller: Caller, request_id: str, request: model_pb2.GetModelRequest
    ) -> model_pb2.GetModelResponse:
        return await self._connection.ask(self._models.GetModel, request, caller, request_id)

    def load_model(
        self, caller: Caller, request_id: str, request: model_pb2.LoadModelRequest
    ) -> AsyncGenerator[model_pb2.LoadModelResponse, None]:
        """Closing the iterator gives the load up."""
        return self._connection.stream(self._models.LoadModel, request, caller, request_id)

    async def unload_model(
        self, caller: Caller, request_id: str, request: model_pb2.UnloadModelRequest
    ) -> model_pb2.UnloadModelResponse:
        return await self._connection.work(self._models.UnloadModel, request, caller, request_id)

    async def list_adapters(
        self, caller: Caller, request_id: str, request: model_pb2.ListAdaptersRequest
    ) -> model_pb2.ListAdaptersResponse:
        return await self._connection.ask(self._models.ListAdapters, request, caller, request_id)

    async def load_adapter(
        self, caller: Caller, request_id: str, request: model_pb2.LoadAdapterRequest
    ) -> model_pb2.LoadAdapterResponse:
        return await self._connection.work(self._models.LoadAdapter, request, caller, request_id)

    async def unload_adapter(
        self, caller: Caller, request_id: str, request: model_pb2.UnloadAdapterRequest
    ) -> model_pb2.UnloadAdapterResponse:
        return await self._connection.work(self._models.UnloadAdapter, request, caller, request_id)
