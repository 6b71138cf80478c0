"""The composition root: from a configuration to a running server, and back."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from narthex import certificates
from narthex.keys import KeyRing
from narthex.settings import Address, NamedPath
from narthex.tracing.span import PassOn, Tracer
from prometheus_client import CollectorRegistry

from narthex_server.agents import agent_host, chat_agents
from narthex_server.auditing import auditing
from narthex_server.config.server import DELEGATE_TOKEN_VARIABLE, ServerConfig
from narthex_server.config.tls import Tls
from narthex_server.errors import NarthexError
from narthex_server.forwarding import forwarding
from narthex_server.interceptors.around import Stack
from narthex_server.interceptors.auth import AuthInterceptor
from narthex_server.interceptors.drain import DrainInterceptor
from narthex_server.interceptors.errors import ErrorInterceptor
from narthex_server.interceptors.hops import HopInterceptor
from narthex_server.interceptors.metrics import MetricsInterceptor
from narthex_server.interceptors.requests import RequestInterceptor
from narthex_server.interceptors.tracing import TraceInterceptor
from narthex_server.lot.crew import Crew
from narthex_server.lot.lot import Lot
from narthex_server.metrics.embedding import EmbeddingMetrics
from narthex_server.metrics.engine import EngineMetrics
from narthex_server.metrics.locks import LockMetrics
from narthex_server.metrics.loop import LoopMetrics
from narthex_server.metrics.lot import LotMetrics, LotReadings
from narthex_server.metrics.models import ModelMetrics
from narthex_server.metrics.registry import new_registry, served
from narthex_server.metrics.remote import RemoteMetrics
from narthex_server.pipelines.adapters import AdapterLibrary
from narthex_server.pipelines.library import ModelLibrary
from narthex_server.pipelines.models import Kind, Models, RemoteModel
from narthex_server.pipelines.order import Order
from narthex_server.principal import LOCAL
from narthex_server.reloading import HangUp, Reloads
from narthex_server.services.embedding import EmbeddingService
from narthex_server.services.generation import GenerationService
from narthex_server.services.lot import LotService
from narthex_server.services.model import ModelService
from narthex_server.services.registration import contract, register
from narthex_server.services.relay import CALL_TOOL, Relay
from narthex_server.services.tool import ToolService
from narthex_server.services.upstream import UpstreamService
from narthex_server.services.works.call_tool import CallToolWork
from narthex_server.services.works.chat import ChatWork
from narthex_server.services.works.embed import EmbedWork
from narthex_server.services.works.generate import GenerateWork
from narthex_server.services.works.rights import KeyRights
from narthex_server.starting import ModelLoader, RemoteLoader
from narthex_server.sync.locks import Locks
from narthex_server.sync.watchdog import Watchdog
from narthex_server.ticketing import ticketing
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.native.chat import ChatTool
from narthex_server.tools.native.count_tokens import CountTokensTool
from narthex_server.tools.native.embed import EmbedTool
from narthex_server.tools.native.generate import GenerateTool
from narthex_server.tools.native.list_models import ListModelsTool
from narthex_server.tools.reach import Reach
from narthex_server.tools.tool import NativeTool
from narthex_server.worker import in_thread

MIN_PING_MS = 1000
UPSTREAM_PATIENCE = 8.0
"""How long readiness waits, in seconds, for upstreams that neither came up nor failed; they go on starting after it."""

REMOTE_PATIENCE = 3.0
"""How long readiness waits, in seconds, for remote engines that do not say what they are."""

WATCH_INTERVAL = 1.0
"""Seconds between two looks of the watchdog at the locks."""

PASS_ON = PassOn()
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
        registry = new_registry()
        metrics_port = stack.enter_context(metrics_served(config, registry))
        locks = stack.enter_context(locking(config, registry))
        drain, reach, tracer = DrainInterceptor(), Reach(), config.otel.tracer("narthex-server")
        stack.push_async_callback(in_thread, tracer.close)
        calls = interceptors(config, registry, reach, tracer)
        rights = KeyRights(key_ring(config), required=config.api_key_file is not None)
        server = grpc_server(config, Stack(drain, calls))
        relay = relaying(config, calls)
        grpc_port = bind(server, config)
        lot = Lot(LotMetrics(registry))
        LotReadings(registry, lambda: [pool.reading() for pool in lot.pools])
        models = library(config, registry, lot, locks)
        stack.push_async_callback(models.stop)
        # Loading and the MCP client's import each take a second: both in threads, and upstreams start meanwhile.
        loading = asyncio.create_task(load_models(config, models))
        stack.callback(loading.cancel)
        auditor = await stack.enter_async_context(auditing(config.audit, registry))
        forwarded = await forwarding(config, models, registry, reach, tracer, auditor, lot, locks)
        catalog = forwarded.catalog
        tickets = await stack.enter_async_context(
            ticketing(config.tickets, config.grpc.port, registry, forwarded.acts, rights)
        )
        stack.push_async_callback(catalog.stop)
        stack.push_async_callback(forwarded.fleet.close)
        connecting = asyncio.create_task(catalog.start())
        stack.callback(connecting.cancel)
        await loading
        looking = asyncio.create_task(look_at_remotes(models))
        stack.callback(looking.cancel)
        adapters = AdapterLibrary(models, config.adapter_root)
        await load_adapters(config, adapters)
        host = agent_host(config, registry)
        agents = await chat_agents(config, host, locks)
        stack.push_async_callback(agents.runs.stop)
        embedding = EmbeddingService(models, config.max_message_bytes, tickets.parking)
        generation = GenerationService(models, catalog, agents, tickets.parking)
        tools = ToolService(catalog, relay, reach, host.running, host.kept, tickets.parking)
        tickets.works.add(
            GenerateWork(generation, models),
            ChatWork(generation, models, catalog, agents),
            CallToolWork(tools, catalog),
            EmbedWork(embedding),
        )
        register(
            server,
            {
                "EmbeddingService": embedding,
                "GenerationService": generation,
                "LotService": LotService(tickets.office, models, locks, lot, catalog, forwarded.acts),
                "ModelService": ModelService(models, adapters),
                "ToolService": tools,
                "UpstreamService": UpstreamService(catalog, forwarded.fleet, forwarded.acts),
            },
        )
        await wait_for_upstreams(connecting)
        await looking
        states = await advertise(server)
        offer = Offer(catalog, states)
        await models.follow(offer.follow)
        stack.enter_context(following(forwarded.reloads))
        watching = asyncio.create_task(LoopMetrics(registry).run())
        stack.callback(watching.cancel)
        await server.start()
        tickets.crew.start()
        stack.push_async_callback(stop, server, drain, config.shutdown_grace, tickets.crew)
        stack.callback(relay.drain)
        stack.push_async_callback(states.enter_graceful_shutdown)
        yield Ready(
            Address(config.grpc.host, grpc_port),
            Address(config.metrics.host, metrics_port),
            tuple(model.name for model in models),
            len(catalog.list(LOCAL)),
        )


@contextmanager
def metrics_served(config: ServerConfig, registry: CollectorRegistry) -> Iterator[int]:
    """Serves /metrics within the block; gives the port. Raises AddressInUse."""
    with ExitStack() as stack:
        try:
            port = stack.enter_context(served(registry, config.metrics))
        except OSError as error:
            raise AddressInUse("--metrics", config.metrics, error.strerror or error) from error
        yield port


@contextmanager
def locking(config: ServerConfig, registry: CollectorRegistry) -> Iterator[Locks]:
    """The locks of this process, in the metrics; within the block a watchdog looks at them, where one is wanted."""
    dog = Watchdog(config.lock_watchdog) if config.lock_watchdog else None
    locks = Locks(config.locks, dog)
    LockMetrics(registry, locks.readings)
    with dog.looking(WATCH_INTERVAL) if dog else nullcontext():
        yield locks


@contextmanager
def following(reloads: Reloads | None) -> Iterator[None]:
    """The file of upstreams is followed within the block, where there is one, and read again on SIGHUP."""
    if reloads is None:
        yield
        return
    task = asyncio.create_task(reloads.run())
    try:
        with HangUp(reloads.ask):
            yield
    finally:
        task.cancel()


async def stop(server: grpc.aio.Server, drain: DrainInterceptor, grace: float, crew: Crew) -> None:
    """Takes no new calls, waits at most `grace` seconds for those that work, then ends the rest; tickets likewise."""
    leaving = asyncio.create_task(crew.drain(grace))
    stopping = asyncio.create_task(server.stop(grace))
    idle = asyncio.create_task(drain.idle())
    await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    await server.stop(None)
    await stopping
    await leaving


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


def key_ring(config: ServerConfig) -> KeyRing:
    """The keys that callers may show. Raises SettingsError."""
    keys = KeyRing.from_file(config.api_key_file) if config.api_key_file else KeyRing(())
    token = os.environ.get(DELEGATE_TOKEN_VARIABLE)
    return keys.with_delegate(token) if token else keys


def interceptors(config: ServerConfig, registry: CollectorRegistry, reach: Reach, tracer: Tracer = PASS_ON) -> Stack:
    """What stands around every call, whether it has a stream of its own or not."""
    return Stack(
        RequestInterceptor(),
        MetricsInterceptor(registry, contract()),
        ErrorInterceptor(),
        HopInterceptor(reach.instance),
        *(() if isinstance(tracer, PassOn) else (TraceInterceptor(tracer),)),
        AuthInterceptor(key_ring(config), required=config.api_key_file is not None),
    )


def grpc_server(config: ServerConfig, interceptor: Stack) -> grpc.aio.Server:
    """A server whose calls all pass the interceptor."""
    return grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            ("grpc.so_reuseport", 0),  # else a second server takes the same port, and half of the calls
            # gRPC's own limit of five minutes ends the connections of clients that look more often whether they still
            # have one, as the bridge does, and the calls on them.
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
        ],
        maximum_concurrent_rpcs=config.max_concurrent_calls,
    )


def relaying(config: ServerConfig, around: Stack) -> Relay:
    """What runs the calls that share a stream, each as if it had one of its own."""
    return Relay(
        lambda responses, context: around.stream(responses, context, CALL_TOOL),
        max_calls=config.max_concurrent_calls,
        max_message_bytes=config.max_message_bytes,
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


async def load_models(config: ServerConfig, models: ModelLibrary) -> None:
    """Loads the configured models, one after the other; raises ModelFailed for the first that cannot be."""
    for named in config.models():
        try:
            async for _ in models.load(Order(named.name, named.path if isinstance(named, NamedPath) else named)):
                pass
        except (NarthexError, OSError, MemoryError) as error:
            raise ModelFailed(f"model {named.name!r} cannot be loaded: {str(error) or type(error).__name__}") from error


async def look_at_remotes(models: Models) -> None:
    """Gives remote engines a moment to say what they are; one that is down is listed as such, and asked again later."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REMOTE_PATIENCE):
            await asyncio.gather(*(model.handle.look() for model in models if isinstance(model, RemoteModel)))


async def wait_for_upstreams(connecting: asyncio.Task[None]) -> None:
    """Gives them a moment to come up; those that take longer go on."""
    with suppress(TimeoutError):
        async with asyncio.timeout(UPSTREAM_PATIENCE):
            await asyncio.shield(connecting)


async def load_adapters(config: ServerConfig, adapters: AdapterLibrary) -> None:
    """Loads the configured adapters; raises ModelFailed for the first that cannot be."""
    for named in config.adapter:
        model, _, name = named.name.rpartition("/")
        try:
            await adapters.load(model, name, named.path)
        except NarthexError as error:
            raise ModelFailed(f"adapter {named.name!r} cannot be loaded: {error.message}") from error


def natives(models: Models) -> tuple[NativeTool, ...]:
    """The native tools that the models can answer."""
    text = (ChatTool(models), GenerateTool(models), CountTokensTool(models)) if models.of(Kind.TEXT) else ()
    vectors = (EmbedTool(models),) if models.of(Kind.VECTORS) else ()
    return (*text, *vectors, ListModelsTool(models)) if len(models) else ()


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


async def advertise(server: grpc.aio.Server) -> health.aio.HealthServicer:
    """Adds health, of the whole and of each service that needs no model, and reflection."""
    states = health.aio.HealthServicer()
    for name in ("ToolService", "UpstreamService", "ModelService", "LotService"):
        await states.set(f"narthex.v1.{name}", SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    names = [service.full_name for service in contract()]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return states
