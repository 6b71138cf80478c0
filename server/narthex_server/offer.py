"""What a server offers, which follows its models."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from narthex_server.pipelines.models import Kind, Models
from narthex_server.services.registration import contract
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.native.chat import ChatTool
from narthex_server.tools.native.count_tokens import CountTokensTool
from narthex_server.tools.native.embed import EmbedTool
from narthex_server.tools.native.generate import GenerateTool
from narthex_server.tools.native.list_models import ListModelsTool
from narthex_server.tools.tool import NativeTool

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Offer:
    """What the models allow: native tools in the catalog, and the health of the services that need a model."""

    def __init__(self, catalog: Catalog, states: health.aio.HealthServicer) -> None:
        self._catalog = catalog
        self._states = states
        self._tools: tuple[str, ...] = ()

    async def follow(self, models: Models) -> None:
        """Offers what these models can do, and nothing else."""
        able = {native.tool.name: native for native in natives(models)}
        for name in self._tools:
            if name not in able:
                self._catalog.remove_native(name)
        for name, native in able.items():
            if name not in self._tools:
                self._catalog.add_native(native)
        self._tools = tuple(able)
        for service, kind in (("GenerationService", Kind.TEXT), ("EmbeddingService", Kind.VECTORS)):
            await self._states.set(f"narthex.v1.{service}", SERVING if models.of(kind) else NOT_SERVING)


def natives(models: Models) -> tuple[NativeTool, ...]:
    """The native tools that the models can answer."""
    text = (ChatTool(models), GenerateTool(models), CountTokensTool(models)) if models.of(Kind.TEXT) else ()
    vectors = (EmbedTool(models),) if models.of(Kind.VECTORS) else ()
    return (*text, *vectors, ListModelsTool(models)) if len(models) else ()


async def advertise(server: grpc.aio.Server) -> health.aio.HealthServicer:
    """Adds health, of the whole and of each service that needs no model, and reflection."""
    states = health.aio.HealthServicer()
    for name in ("ToolService", "UpstreamService", "ModelService", "LotService"):
        await states.set(f"narthex.v1.{name}", SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    names = [service.full_name for service in contract()]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return states
