"""ModelService: what is served, and what it can do."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import model_pb2 as wire

from narthex_server.engine.adapters import AdapterInfo
from narthex_server.pipelines.adapters import AdapterLibrary
from narthex_server.pipelines.library import Listed, ModelLibrary, State
from narthex_server.pipelines.order import Wanted
from narthex_server.pipelines.reports import LoadProgress
from narthex_server.pipelines.serving import Ability, abilities
from narthex_server.progress import Stage
from narthex_server.services.complete import complete

_STATES: Mapping[State, wire.ModelState.ValueType] = MappingProxyType(
    {
        State.LOADING: wire.MODEL_STATE_LOADING,
        State.READY: wire.MODEL_STATE_READY,
        State.IDLE: wire.MODEL_STATE_IDLE,
        State.UNLOADING: wire.MODEL_STATE_UNLOADING,
        State.FAILED: wire.MODEL_STATE_FAILED,
    }
)
_STAGES: Mapping[Stage, wire.LoadStage.ValueType] = MappingProxyType(
    {
        Stage.READ: wire.LOAD_STAGE_READ,
        Stage.BUILD: wire.LOAD_STAGE_BUILD,
        Stage.START: wire.LOAD_STAGE_START,
    }
)
_CAPABILITIES: Mapping[Ability, wire.Capability.ValueType] = MappingProxyType(
    {
        Ability.GENERATE: wire.CAPABILITY_GENERATE,
        Ability.CHAT: wire.CAPABILITY_CHAT,
        Ability.TOOLS: wire.CAPABILITY_TOOLS,
        Ability.REASONING: wire.CAPABILITY_REASONING,
        Ability.CONSTRAINT: wire.CAPABILITY_CONSTRAINT,
        Ability.LOGPROBS: wire.CAPABILITY_LOGPROBS,
        Ability.ADAPTERS: wire.CAPABILITY_ADAPTERS,
        Ability.EMBED: wire.CAPABILITY_EMBED,
    }
)

Context = ServicerContext[Any, Any]


@complete(wire.DESCRIPTOR.services_by_name["ModelService"])
class ModelService:
    """Lists, loads and unloads models and their adapters."""

    def __init__(self, models: ModelLibrary, adapters: AdapterLibrary) -> None:
        self._models = models
        self._adapters = adapters

    async def ListModels(self, request: wire.ListModelsRequest, context: Context) -> wire.ListModelsResponse:
        return wire.ListModelsResponse(models=[_model(listed) for listed in self._models.listed()])

    async def GetModel(self, request: wire.GetModelRequest, context: Context) -> wire.GetModelResponse:
        return wire.GetModelResponse(model=_model(self._models.describe(request.name)))

    async def LoadModel(
        self, request: wire.LoadModelRequest, context: Context
    ) -> AsyncIterator[wire.LoadModelResponse]:
        wanted = Wanted(request.compute, request.max_context, request.max_slots)
        async with aclosing(self._models.load_named(request.name, request.path, wanted)) as events:
            async for event in events:
                match event:
                    case LoadProgress(stage, fraction):
                        progress = wire.LoadProgress(stage=_STAGES[stage], fraction=fraction)
                        yield wire.LoadModelResponse(progress=progress)
                    case Listed():
                        yield wire.LoadModelResponse(model=_model(event))

    async def UnloadModel(self, request: wire.UnloadModelRequest, context: Context) -> wire.UnloadModelResponse:
        await self._models.unload(request.name)
        return wire.UnloadModelResponse()

    async def ListAdapters(self, request: wire.ListAdaptersRequest, context: Context) -> wire.ListAdaptersResponse:
        found = self._adapters.list(request.model)
        return wire.ListAdaptersResponse(adapters=[_adapter(info, model.name) for model, info in found])

    async def LoadAdapter(self, request: wire.LoadAdapterRequest, context: Context) -> wire.LoadAdapterResponse:
        info = await self._adapters.load_named(request.model, request.name, request.path)
        return wire.LoadAdapterResponse(adapter=_adapter(info, self._models.get(request.model).name))

    async def UnloadAdapter(self, request: wire.UnloadAdapterRequest, context: Context) -> wire.UnloadAdapterResponse:
        await self._adapters.unload(request.model, request.name)
        return wire.UnloadAdapterResponse()


def _model(listed: Listed) -> wire.Model:
    known = wire.Model(name=listed.name, state=_STATES[listed.state], failure=listed.failure)
    if (model := listed.model) is not None:
        known.architecture = model.info.model_type
        known.capabilities.extend(_CAPABILITIES[ability] for ability in abilities(model))
        known.max_context = model.max_context
        known.vocab_size = model.vocab_size
        known.parameters = model.info.parameters
        known.compute = model.info.compute
        known.device = model.info.device
        known.max_slots = model.slots
    if listed.ready_time is not None:
        known.ready_time.FromNanoseconds(int(listed.ready_time * 1e9))
    return known


def _adapter(info: AdapterInfo, model: str) -> wire.Adapter:
    return wire.Adapter(name=info.name, model=model, rank=info.rank, scale=info.scale)
