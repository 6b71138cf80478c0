"""From an order to a running model, and back."""

import sys
from typing import TYPE_CHECKING

from narthex_server.config import ServerConfig
from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.errors import ResourceExhausted
from narthex_server.memory import free
from narthex_server.metrics import EmbeddingMetrics, EngineMetrics
from narthex_server.pipelines.models import EmbedModel, Model, ModelInfo, TextModel
from narthex_server.pipelines.order import Order
from narthex_server.progress import Progress
from narthex_server.runtime import allocation
from narthex_server.worker import in_thread

if TYPE_CHECKING:
    from narthex_server.embedders import LoadedEmbedder
    from narthex_server.loading import LoadedModel

ENGINE_GRACE = 1.0
"""How long an engine waits, in seconds, for requests that were cancelled already."""
FEWEST_TOKENS = 16
"""A model that may cache no more is of no use: its memory for keys and values is as good as gone."""


class ModelLoader:
    """The library's Loader with the settings of a server, whose metrics follow the models that run."""

    def __init__(self, config: ServerConfig, engines: EngineMetrics, embedders: EmbeddingMetrics) -> None:
        self._config = config
        self._engines = engines
        self._embedders = embedders

    def load(self, order: Order, progress: Progress) -> "LoadedModel | LoadedEmbedder":
        """One model; ONNX Runtime is imported here and nowhere else, so that a tool gateway never has it."""
        from narthex_server.embedders import is_embedder, load_embedder
        from narthex_server.loading import LoadOptions, load
        from narthex_server.runtime.adapter_bank import Limits

        config = self._config
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
        return load_embedder(order.path, options) if is_embedder(order.path) else load(order.path, options)

    def start(self, name: str, loaded: "LoadedModel | LoadedEmbedder") -> Model:
        from narthex_server.embedders import LoadedEmbedder

        info = ModelInfo(loaded.model_type, loaded.parameters, loaded.quantization, loaded.compute, loaded.device)
        if isinstance(loaded, LoadedEmbedder):
            embedder = EmbedderHandle(
                loaded.session, loaded.head, self._config.max_waiting, self._embedders.observer(name)
            )
            embedder.start()
            self._embedders.watch(name, embedder.requests)
            own = (loaded.tokenizer, loaded.vocab_size, loaded.lower_case, loaded.prompts)
            return EmbedModel(name, embedder, *own, info)
        try:
            options = engine_options(name, loaded, self._config, cache_room(self._config, free()))
        except ResourceExhausted:
            loaded.session.close()
            raise
        handle = EngineHandle(loaded.session, options, self._engines.observer(name))
        handle.start()
        self._engines.watch(name, handle.snapshot)
        return TextModel(name, handle, loaded.text, info)

    async def stop(self, model: Model) -> None:
        await model.handle.stop(ENGINE_GRACE)
        (self._embedders if isinstance(model, EmbedModel) else self._engines).unwatch(model.name)
        await in_thread(allocation.trim)


def cache_room(config: ServerConfig, left: int | None) -> int:
    """Bytes for the keys and values of one model: what is configured, or its share of what is left, None if unknown.

    The models of the configuration share it; one that is loaded later takes of what is left then.
    """
    return config.kv_memory or (sys.maxsize if left is None else left) // max(len(config.models()), 1)


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
    return EngineOptions(config.prefill_chunk, config.max_waiting, tokens, config.speculate, config.longest_pause)
