"""ModelService: what is served, and what it can do."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext
from narthex.v1 import model_pb2 as wire

from narthex_server.engine.adapters import AdapterInfo
from narthex_server.pipelines.adapters import AdapterLibrary
from narthex_server.pipelines.models import EmbedModel, Model, Models
from narthex_server.pipelines.tokens import supports_tools
from narthex_server.services.complete import complete

Context = ServicerContext[Any, Any]


@complete(wire.DESCRIPTOR.services_by_name["ModelService"])
class ModelService:
    """Lists the models of the configuration and changes their adapters; it cannot load models yet."""

    def __init__(self, models: Models, adapters: AdapterLibrary) -> None:
        self._models = models
        self._adapters = adapters
        self._ready = Timestamp()
        self._ready.GetCurrentTime()

    async def ListModels(self, request: wire.ListModelsRequest, context: Context) -> wire.ListModelsResponse:
        return wire.ListModelsResponse(models=[self._to_wire(model) for model in self._models])

    async def GetModel(self, request: wire.GetModelRequest, context: Context) -> wire.GetModelResponse:
        return wire.GetModelResponse(model=self._to_wire(self._models.find(request.name)))

    async def ListAdapters(self, request: wire.ListAdaptersRequest, context: Context) -> wire.ListAdaptersResponse:
        found = self._adapters.list(request.model)
        return wire.ListAdaptersResponse(adapters=[_adapter(info, model.name) for model, info in found])

    async def LoadAdapter(self, request: wire.LoadAdapterRequest, context: Context) -> wire.LoadAdapterResponse:
        info = await self._adapters.load_named(request.model, request.name, request.path)
        return wire.LoadAdapterResponse(adapter=_adapter(info, self._models.get(request.model).name))

    async def UnloadAdapter(self, request: wire.UnloadAdapterRequest, context: Context) -> wire.UnloadAdapterResponse:
        await self._adapters.unload(request.model, request.name)
        return wire.UnloadAdapterResponse()

    def _to_wire(self, model: Model) -> wire.Model:
        return wire.Model(
            name=model.name,
            state=wire.MODEL_STATE_READY,
            architecture=model.info.model_type,
            capabilities=_capabilities(model),
            max_context=model.max_context,
            vocab_size=model.vocab_size,
            parameters=model.info.parameters,
            compute=model.info.compute,
            device=model.info.device,
            max_slots=model.slots,
            ready_time=self._ready,
        )


def _capabilities(model: Model) -> list[wire.Capability.ValueType]:
    if isinstance(model, EmbedModel):
        return [wire.CAPABILITY_EMBED]
    capabilities = [wire.CAPABILITY_GENERATE]
    if model.text.template is not None:
        capabilities.append(wire.CAPABILITY_CHAT)
    if supports_tools(model):
        capabilities.append(wire.CAPABILITY_TOOLS)
    if model.handle.adapts:
        capabilities.append(wire.CAPABILITY_ADAPTERS)
    return capabilities


def _adapter(info: AdapterInfo, model: str) -> wire.Adapter:
    return wire.Adapter(name=info.name, model=model, rank=info.rank, scale=info.scale)
