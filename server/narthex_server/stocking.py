"""The library of a server, and the models and adapters that are configured in it."""

import asyncio
from contextlib import suppress

from narthex.settings import NamedPath
from prometheus_client import CollectorRegistry

from narthex_server.config.server import ServerConfig
from narthex_server.errors import NarthexError
from narthex_server.lot.lot import Lot
from narthex_server.metrics.embedding import EmbeddingMetrics
from narthex_server.metrics.engine import EngineMetrics
from narthex_server.metrics.models import ModelMetrics
from narthex_server.metrics.remote import RemoteMetrics
from narthex_server.pipelines.adapters import AdapterLibrary
from narthex_server.pipelines.library import ModelLibrary
from narthex_server.pipelines.models import Models, RemoteModel
from narthex_server.pipelines.order import Order
from narthex_server.starting import ModelLoader, RemoteLoader
from narthex_server.sync.locks import Locks

REMOTE_PATIENCE = 3.0
"""How long readiness waits, in seconds, for remote engines that do not say what they are."""


class ModelFailed(Exception):
    """A model that cannot be loaded, and why."""


def library(config: ServerConfig, registry: CollectorRegistry, lot: Lot, locks: Locks) -> ModelLibrary:
    """A library without models, whose metrics are in the registry; requests wait for them in the lot."""
    engines, embedders = EngineMetrics(registry), EmbeddingMetrics(registry)
    remotes = RemoteMetrics(registry, engines, embedders)
    loader = ModelLoader(config, lot, engines, embedders, RemoteLoader(config, lot, remotes), locks)
    observer = ModelMetrics(registry)
    models = ModelLibrary(
        loader,
        default=config.default_model,
        root=config.model_root,
        idle_unload=config.idle_unload,
        observer=observer,
        locks=locks,
    )
    observer.watch(models.listed)
    return models


async def load_models(config: ServerConfig, models: ModelLibrary) -> None:
    """Loads the configured models, one after the other; raises ModelFailed for the first that cannot be."""
    for named in config.models():
        try:
            async for _ in models.load(Order(named.name, named.path if isinstance(named, NamedPath) else named)):
                pass
        except (NarthexError, OSError, MemoryError) as error:
            raise ModelFailed(f"model {named.name!r} cannot be loaded: {str(error) or type(error).__name__}") from error


async def load_adapters(config: ServerConfig, adapters: AdapterLibrary) -> None:
    """Loads the configured adapters; raises ModelFailed for the first that cannot be."""
    for named in config.adapter:
        model, _, name = named.name.rpartition("/")
        try:
            await adapters.load(model, name, named.path)
        except NarthexError as error:
            raise ModelFailed(f"adapter {named.name!r} cannot be loaded: {error.message}") from error


async def look_at_remotes(models: Models) -> None:
    """Gives remote engines a moment to say what they are; one that is down is listed as such, and asked again later."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REMOTE_PATIENCE):
            await asyncio.gather(*(model.handle.look() for model in models if isinstance(model, RemoteModel)))
