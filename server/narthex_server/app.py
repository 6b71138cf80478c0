"""The composition root: from a configuration to a running server, and back."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from narthex import certificates
from narthex.keys import KeyRing
from narthex.settings import Address, NamedPath, SettingsError
from prometheus_client import CollectorRegistry

from narthex_server import metrics
from narthex_server.config import DELEGATE_TOKEN_VARIABLE, ServerConfig, Tls
from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.errors import NarthexError
from narthex_server.interceptors.auth import AuthInterceptor
from narthex_server.interceptors.drain import DrainInterceptor
from narthex_server.interceptors.errors import ErrorInterceptor
from narthex_server.interceptors.metrics import MetricsInterceptor
from narthex_server.interceptors.requests import RequestInterceptor
from narthex_server.pipelines.adapters import AdapterLibrary
from narthex_server.pipelines.models import EmbedModel, ModelInfo, Models, TextModel
from narthex_server.principal import LOCAL
from narthex_server.services.embedding import EmbeddingService
from narthex_server.services.generation import GenerationService
from narthex_server.services.model import ModelService
from narthex_server.services.registration import contract, register
from narthex_server.services.tool import ToolService
from narthex_server.services.upstream import UpstreamService
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.native.chat import ChatTool
from narthex_server.tools.native.count_tokens import CountTokensTool
from narthex_server.tools.native.embed import EmbedTool
from narthex_server.tools.native.generate import GenerateTool
from narthex_server.tools.native.list_models import ListModelsTool
from narthex_server.tools.server import ToolServer
from narthex_server.tools.tool import NativeTool

if TYPE_CHECKING:
    from narthex_server.embedders import LoadedEmbedder
    from narthex_server.loading import LoadedModel
    from narthex_server.tools.upstream.source import ServerSource

P = ParamSpec("P")
T = TypeVar("T")

ENGINE_GRACE = 1.0
"""How long an engine waits, in seconds, for requests that the drained gRPC server has already cancelled."""

UPSTREAM_PATIENCE = 8.0
"""How long readiness waits, in seconds, for upstreams that neither came up nor failed; they go on starting after it."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

log = logging.getLogger(__name__)


class AddressInUse(Exception):
    """An address that another process holds; `option` is the flag to change."""

    def __init__(self, option: str, address: Address, reason: object) -> None:
        super().__init__(f"cannot listen on {address}: {reason}; choose another with {option} HOST:PORT")


class ModelFailed(Exception):
    """A model that cannot be loaded, and why."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a started server has: its addresses with the real ports, its models' names, and how many tools."""

    grpc: Address
    metrics: Address
    models: tuple[str, ...]
    tools: int


@asynccontextmanager
async def serving(config: ServerConfig) -> AsyncIterator[Ready]:
    """Runs a server inside the block; leaving it drains: running calls have `shutdown_grace` seconds to finish.

    Raises AddressInUse, ModelFailed or SettingsError before the block.
    """
    async with AsyncExitStack() as stack:
        registry = metrics.registry()
        try:
            metrics_port = stack.enter_context(metrics.served(registry, config.metrics))
        except OSError as error:
            raise AddressInUse("--metrics", config.metrics, error.strerror or error) from error
        drain = DrainInterceptor()
        server = grpc_server(config, registry, drain)
        grpc_port = bind(server, config)
        # Loading and the MCP client's import each take a second: both in threads, and upstreams start meanwhile.
        loading = asyncio.create_task(load_models(config))
        stack.callback(loading.cancel)
        catalog = Catalog(servers=await in_thread(upstreams, config), observer=metrics.ToolMetrics(registry))
        metrics.UpstreamMetrics(registry, catalog.servers)
        stack.push_async_callback(catalog.stop)
        connecting = asyncio.create_task(catalog.start())
        stack.callback(connecting.cancel)
        models = await start_engines(await loading, config, registry, stack)
        adapters = AdapterLibrary(models, config.adapter_root)
        await load_adapters(config, adapters)
        generates, embeds = bool(models.of(TextModel)), bool(models.of(EmbedModel))
        for native in natives(models, generates, embeds):
            catalog.add_native(native)
        register(
            server,
            {
                "EmbeddingService": EmbeddingService(models, config.max_message_bytes),
                "GenerationService": GenerationService(models, catalog),
                "ModelService": ModelService(models, adapters),
                "ToolService": ToolService(catalog),
                "UpstreamService": UpstreamService(catalog),
            },
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(UPSTREAM_PATIENCE):
                await asyncio.shield(connecting)
        states = await advertise(server, {"GenerationService": generates, "EmbeddingService": embeds})
        await server.start()
        stack.push_async_callback(stop, server, drain, config.shutdown_grace)
        stack.push_async_callback(states.enter_graceful_shutdown)
        yield Ready(
            Address(config.grpc.host, grpc_port),
            Address(config.metrics.host, metrics_port),
            tuple(model.name for model in models),
            len(catalog.list(LOCAL)),
        )


async def stop(server: grpc.aio.Server, drain: DrainInterceptor, grace: float) -> None:
    """Takes no new calls, waits at most `grace` seconds for those that work, then ends the rest."""
    stopping = asyncio.create_task(server.stop(grace))
    idle = asyncio.create_task(drain.idle())
    await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    await server.stop(None)
    await stopping


def grpc_server(config: ServerConfig, registry: CollectorRegistry, drain: DrainInterceptor) -> grpc.aio.Server:
    """A server with our interceptors, outermost first."""
    keys = KeyRing.from_file(config.api_key_file) if config.api_key_file else KeyRing(())
    if token := os.environ.get(DELEGATE_TOKEN_VARIABLE):
        keys = keys.with_delegate(token)
    return grpc.aio.server(
        interceptors=[
            drain,
            RequestInterceptor(),
            MetricsInterceptor(registry, contract()),
            ErrorInterceptor(),
            AuthInterceptor(keys, required=config.api_key_file is not None),
        ],
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            ("grpc.so_reuseport", 0),  # else a second server takes the same port, and half of the calls
        ],
        maximum_concurrent_rpcs=config.max_concurrent_calls,
    )


def bind(server: grpc.aio.Server, config: ServerConfig) -> int:
    """Takes the gRPC address; gives its port."""
    try:
        if credentials := tls_credentials(config.tls):
            return server.add_secure_port(str(config.grpc), credentials)
        return server.add_insecure_port(str(config.grpc))
    except RuntimeError as error:
        raise AddressInUse("--grpc", config.grpc, "the address is in use or not ours") from error


def tls_credentials(tls: Tls) -> grpc.ServerCredentials | None:
    """TLS as configured; None for plain text. With `client_ca` callers have to show a certificate (mTLS).

    Raises SettingsError.
    """
    if tls.cert is None or tls.key is None:
        return None
    certificates.check("tls", tls.cert, tls.key, tls.client_ca)
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.cert.read_bytes())],
        root_certificates=tls.client_ca.read_bytes() if tls.client_ca else None,
        require_client_auth=tls.client_ca is not None,
    )


async def load_models(config: ServerConfig) -> dict[str, "LoadedModel | LoadedEmbedder"]:
    """The configured models by name, loaded one after the other; raises ModelFailed for the first that cannot be."""
    loaded: dict[str, LoadedModel | LoadedEmbedder] = {}
    for named in config.models():
        try:
            loaded[named.name] = await in_thread(load_model, named, config)
        except (NarthexError, OSError, MemoryError) as error:
            raise ModelFailed(f"model {named.name!r} cannot be loaded: {str(error) or type(error).__name__}") from error
    return loaded


def load_model(named: NamedPath, config: ServerConfig) -> "LoadedModel | LoadedEmbedder":
    """One model; ONNX Runtime is imported here and nowhere else, so that a tool gateway never has it."""
    from narthex_server.embedders import is_embedder, load_embedder
    from narthex_server.loading import LoadOptions, load
    from narthex_server.runtime.adapter_bank import Limits

    room = max(config.max_adapters, len(config.adapter))
    xlora, tokenizers = ({entry.name: entry.path for entry in given} for given in (config.xlora, config.tokenizer))
    options = LoadOptions(
        compute=config.compute,
        device=config.device,
        threads=config.threads,
        slots=config.max_slots,
        max_context=config.max_context,
        cache_dir=config.cache_dir,
        adapters=Limits(room, config.max_adapter_rank, config.max_adapter_bytes) if room else None,
        xlora=xlora.get(named.name),
        xlora_frozen_after=config.xlora_frozen_after,
        quantize=config.quantize,
        topology=config.topology,
        tokenizer=tokenizers.get(named.name),
    )
    return load_embedder(named.path, options) if is_embedder(named.path) else load(named.path, options)


async def load_adapters(config: ServerConfig, adapters: AdapterLibrary) -> None:
    """Loads the configured adapters; raises ModelFailed for the first that cannot be."""
    for named in config.adapter:
        model, _, name = named.name.rpartition("/")
        try:
            await adapters.load(model, name, named.path)
        except NarthexError as error:
            raise ModelFailed(f"adapter {named.name!r} cannot be loaded: {error.message}") from error


async def start_engines(
    loaded: dict[str, "LoadedModel | LoadedEmbedder"],
    config: ServerConfig,
    registry: CollectorRegistry,
    stack: AsyncExitStack,
) -> Models:
    """Starts an engine for each model; they end with `stack`, after the calls that use them."""
    models, engines, embedders = Models(), metrics.EngineMetrics(registry), metrics.EmbeddingMetrics(registry)
    if not loaded:
        return models
    from narthex_server.embedders import LoadedEmbedder

    options = EngineOptions(config.prefill_chunk, config.max_waiting)
    for name, model in loaded.items():
        info = ModelInfo(model.model_type, model.parameters, model.quantization, model.compute, model.device)
        if isinstance(model, LoadedEmbedder):
            embedder = EmbedderHandle(model.session, model.head, config.max_waiting, embedders.observer(name))
            embedder.start()
            stack.push_async_callback(embedder.stop, ENGINE_GRACE)
            embedders.watch(name, embedder.requests)
            own = (model.tokenizer, model.vocab_size, model.lower_case, model.prompts)
            models.add(EmbedModel(name, embedder, *own, info))
        else:
            handle = EngineHandle(model.session, options, engines.observer(name))
            handle.start()
            stack.push_async_callback(handle.stop, ENGINE_GRACE)
            engines.watch(name, handle.snapshot)
            models.add(TextModel(name, handle, model.text, info))
    return models


def natives(models: Models, generates: bool, embeds: bool) -> Iterator[NativeTool]:
    """The native tools that the models can answer."""
    if generates:
        yield from (ChatTool(models), GenerateTool(models), CountTokensTool(models))
    if embeds:
        yield EmbedTool(models)
    if generates or embeds:
        yield ListModelsTool(models)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread, but a process that is told to stop need not wait for the thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result, error = work(*args, **kwargs), None
        except BaseException as caught:
            result, error = None, caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    threading.Thread(target=run, daemon=True).start()
    return await future


def upstreams(config: ServerConfig) -> Sequence[ToolServer]:
    """The configured upstreams, not started; the client that they need is imported only where there are any."""
    from narthex_server.tools.upstream.source import DEFAULT_CALL_TIMEOUT, SourceError, parse_sources

    try:
        sources = parse_sources(config.upstreams(), str(config.mcp_config or "the demo's mcp-config"))
    except SourceError as error:
        raise SettingsError(error.message) from error
    if not sources:
        return ()
    from narthex_server.tools.upstream.supervisor import Upstream

    def timed(source: "ServerSource") -> "ServerSource":
        own = source.call_timeout != DEFAULT_CALL_TIMEOUT
        call = source.call_timeout if own else config.tool_timeout
        return replace(source, call_timeout=call, start_timeout=config.upstream_start_timeout)

    return [Upstream(timed(source)) for source in sources]


async def advertise(server: grpc.aio.Server, able: Mapping[str, bool]) -> health.aio.HealthServicer:
    """Adds health, of the whole, of each service that is built, and of those that need a model; and reflection."""
    states = health.aio.HealthServicer()
    for name in ("ToolService", "UpstreamService", "ModelService"):
        await states.set(f"narthex.v1.{name}", SERVING)
    for name, serves in able.items():
        await states.set(f"narthex.v1.{name}", SERVING if serves else NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    names = [service.full_name for service in contract()]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return states
