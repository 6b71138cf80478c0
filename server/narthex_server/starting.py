"""From an order to a running model, and back."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from narthex.settings import NamedUrl, SettingsError

from narthex_server.config.server import ServerConfig
from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.errors import ResourceExhausted
from narthex_server.lot.lot import Lot
from narthex_server.lot.pool import Pool
from narthex_server.lot.units import Units
from narthex_server.memory import free
from narthex_server.metrics.embedding import EmbeddingMetrics
from narthex_server.metrics.engine import EngineMetrics
from narthex_server.metrics.remote import RemoteMetrics
from narthex_server.pipelines.admitted import SLOTS, capacity
from narthex_server.pipelines.models import EmbedModel, Kind, Model, ModelInfo, RemoteModel, TextModel
from narthex_server.pipelines.order import Order
from narthex_server.pipelines.remote.handle import RemoteHandle, RemoteLimits
from narthex_server.pipelines.remote.refusals import Refusals
from narthex_server.progress import Progress
from narthex_server.runtime import allocation
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.text.compiling import Compiling
from narthex_server.waiting import limits
from narthex_server.worker import in_thread

if TYPE_CHECKING:
    from narthex_server.embedders import LoadedEmbedder
    from narthex_server.loading import LoadedModel

ENGINE_GRACE = 1.0
"""How long an engine waits, in seconds, for requests that were cancelled already."""
LOOK_SECONDS = 10.0
"""How long a remote engine may take to say what it is."""
LOOKS = 2
"""Connections to a remote engine beyond those of its requests, for looking at it."""
FEWEST_TOKENS = 16
"""A model that may cache no more is of no use: its memory for keys and values is as good as gone."""


class ModelLoader:
    """The library's Loader with the settings of a server, whose metrics follow the models that run."""

    def __init__(
        self,
        config: ServerConfig,
        lot: Lot,
        engines: EngineMetrics,
        embedders: EmbeddingMetrics,
        remotes: "RemoteLoader",
        locks: Locks = UNMETERED,
    ) -> None:
        self._config = config
        self._lot = lot
        self._engines = engines
        self._embedders = embedders
        self._remotes = remotes
        self._compiling = Compiling(locks)

    def load(self, order: Order, progress: Progress) -> "LoadedModel | LoadedEmbedder | RemoteModel":
        """One model; ONNX Runtime is imported here and nowhere else, so that a gateway never has it."""
        if isinstance(order.source, NamedUrl):
            return self._remotes.load(order.source)
        from narthex_server.embedders import is_embedder, load_embedder
        from narthex_server.loading import LoadOptions, load
        from narthex_server.runtime.adapter_bank import Limits

        config, path = self._config, order.source
        room = max(config.max_adapters, len(config.adapter))
        xlora, tokenizers = ({entry.name: entry.path for entry in given} for given in (config.xlora, config.tokenizer))
        options = LoadOptions(
            compute=order.wanted.compute or config.compute,
            device=config.device,
            threads=config.threads,
            slots=order.wanted.max_slots or config.max_slots,
            max_context=order.wanted.max_context or config.max_context,
            cache_dir=config.cache_dir,
            adapters=Limits(room, config.max_adapter_rank, config.max_adapter_bytes) if room else None,
            xlora=xlora.get(order.name),
            xlora_frozen_after=config.xlora_frozen_after,
            quantize=config.quantize,
            topology=config.topology,
            tokenizer=tokenizers.get(order.name),
            progress=progress,
            kv=config.kv_cache,
        )
        return load_embedder(path, options) if is_embedder(path) else load(path, options)

    def start(self, name: str, loaded: "LoadedModel | LoadedEmbedder | RemoteModel") -> Model:
        if isinstance(loaded, RemoteModel):
            return self._remotes.start(loaded)
        from narthex_server.embedders import LoadedEmbedder

        info = ModelInfo(loaded.model_type, loaded.parameters, loaded.quantization, loaded.compute, loaded.device)
        if isinstance(loaded, LoadedEmbedder):
            slots = self._config.lot.embeddings
            embedder = EmbedderHandle(loaded.session, loaded.head, slots, self._embedders.observer(name))
            embedder.start()
            pool = self._open(name, {SLOTS: slots})
            self._embedders.watch(name, lambda: embedder.requests() + pool.waiting)
            own = (loaded.tokenizer, loaded.vocab_size, loaded.lower_case, loaded.prompts)
            return EmbedModel(name, embedder, *own, info, pool)
        try:
            options = engine_options(name, loaded, self._config, cache_room(self._config, free()))
        except ResourceExhausted:
            loaded.session.close()
            raise
        handle = EngineHandle(loaded.session, options, self._engines.observer(name))
        handle.start()
        pool = self._open(name, capacity(handle), gives_way=True)
        model = TextModel(name, handle, loaded.text, info, compiling=self._compiling, pool=pool)
        self._engines.watch(name, model.engine.snapshot)
        return model

    async def stop(self, model: Model) -> None:
        self._lot.close(pool_of(model.name))
        await model.handle.stop(ENGINE_GRACE)
        if isinstance(model, RemoteModel):
            self._remotes.unwatch(model)
            return
        (self._embedders if isinstance(model, EmbedModel) else self._engines).unwatch(model.name)
        await in_thread(allocation.trim)

    def _open(self, name: str, there_is: Units, *, gives_way: bool = False) -> Pool:
        waiting = limits(self._config.lot, self._config.max_waiting)
        return self._lot.open(pool_of(name), there_is, replace(waiting, gives_way=gives_way))


class RemoteLoader:
    """Makes models of those that other servers run; a server that is down is no obstacle."""

    def __init__(self, config: ServerConfig, lot: Lot, metrics: RemoteMetrics) -> None:
        self._config = config
        self._lot = lot
        self._metrics = metrics

    def load(self, named: NamedUrl) -> RemoteModel:
        """Settle all that can be without the engine; the HTTP client is imported here. Errors: SettingsError."""
        from narthex_server.pipelines.remote.http import HttpConnection, tls_context

        remote, key = self._config.remote, self._config.model_key(named.name)
        try:
            tls = tls_context(remote.verify, remote.ca)
        except OSError as error:  # which ssl.SSLError is, too
            raise SettingsError(f"--remote-ca: {remote.ca} holds no certificates that can be used") from error
        refusals = Refusals(named.name, key)
        connection = HttpConnection(
            named.url, key, tls, refusals, connect_timeout=remote.connect_timeout, most=remote.max_requests + LOOKS
        )
        bounds = RemoteLimits(
            remote.max_requests, self._config.max_waiting, remote.read_timeout, LOOK_SECONDS, remote.check_interval
        )
        kind = Kind.VECTORS if named.api == NamedUrl.EMBEDDING else Kind.TEXT
        observer = self._metrics.observer(named.name)
        return RemoteModel(named.name, kind, RemoteHandle(connection, refusals, named.model, bounds, observer))

    def start(self, model: RemoteModel) -> RemoteModel:
        """Have it looked at from now on, in the event loop."""
        waiting = limits(self._config.lot, self._config.max_waiting)
        model.handle.start(self._lot.open(pool_of(model.name), {SLOTS: model.slots}, waiting))
        self._metrics.watch(model)
        return model

    def unwatch(self, model: RemoteModel) -> None:
        """It is stopped."""
        self._metrics.unwatch(model)


def pool_of(model: str) -> str:
    """The name of a model's pool."""
    return f"model/{model}"


def cache_room(config: ServerConfig, left: int | None) -> int:
    """Bytes for the keys and values of one model: what is configured, or its share of what is left, None if unknown.

    The models of the configuration share it; one that is loaded later takes of what is left then.
    """
    return config.kv_memory or (sys.maxsize if left is None else left) // max(len(config.local_models()), 1)


def engine_options(name: str, model: "LoadedModel", config: ServerConfig, room: int) -> EngineOptions:
    """How an engine runs that has `room` bytes for keys and values. Errors: ResourceExhausted where that is nothing."""
    tokens = room // max(model.session.token_bytes, 1)
    if tokens < FEWEST_TOKENS:
        raise ResourceExhausted(
            f"model {name!r} needs {model.session.token_bytes} bytes for each token's keys and values, so that "
            f"{room} bytes are enough for {tokens} only; stop something else, or raise --kv-memory",
            reason="OUT_OF_MEMORY",
            metadata={"token_bytes": str(model.session.token_bytes), "available_bytes": str(room)},
        )
    most = max(config.max_waiting, model.session.slots + 2)  # the pool admits one more, and urgent ones beside them all
    return EngineOptions(config.prefill_chunk, most, tokens, config.speculate, config.longest_pause)
