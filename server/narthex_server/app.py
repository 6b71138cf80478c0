"""The composition root: from a configuration to a running server, and back."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import grpc
from narthex.settings import Address

from narthex_server.agents import agent_host, chat_agents
from narthex_server.auditing import auditing
from narthex_server.config.server import ServerConfig
from narthex_server.forwarding import forwarding
from narthex_server.interceptors.around import Stack
from narthex_server.interceptors.drain import DrainInterceptor
from narthex_server.listening import bind, grpc_server, interceptors, key_ring, metrics_served, relaying
from narthex_server.locking import locking
from narthex_server.lot.crew import Crew
from narthex_server.lot.lot import Lot
from narthex_server.metrics.loop import LoopMetrics
from narthex_server.metrics.lot import LotMetrics, LotReadings
from narthex_server.metrics.registry import new_registry
from narthex_server.offer import Offer, advertise
from narthex_server.pipelines.adapters import AdapterLibrary
from narthex_server.principal import LOCAL
from narthex_server.reloading import HangUp, Reloads
from narthex_server.services.embedding import EmbeddingService
from narthex_server.services.generation import GenerationService
from narthex_server.services.lot import LotService
from narthex_server.services.model import ModelService
from narthex_server.services.registration import register
from narthex_server.services.tool import ToolService
from narthex_server.services.upstream import UpstreamService
from narthex_server.services.works.call_tool import CallToolWork
from narthex_server.services.works.chat import ChatWork
from narthex_server.services.works.embed import EmbedWork
from narthex_server.services.works.generate import GenerateWork
from narthex_server.services.works.rights import KeyRights
from narthex_server.stocking import library, load_adapters, load_models, look_at_remotes
from narthex_server.ticketing import ticketing
from narthex_server.tools.reach import Reach
from narthex_server.worker import in_thread

UPSTREAM_PATIENCE = 8.0
"""How long readiness waits, in seconds, for upstreams that neither came up nor failed; they go on starting after it."""

log = logging.getLogger(__name__)


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
        keys = key_ring(config)
        calls = interceptors(config, keys, registry, reach, tracer)
        rights = KeyRights(keys, required=config.api_key_file is not None)
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


async def wait_for_upstreams(connecting: asyncio.Task[None]) -> None:
    """Gives them a moment to come up; those that take longer go on."""
    with suppress(TimeoutError):
        async with asyncio.timeout(UPSTREAM_PATIENCE):
            await asyncio.shield(connecting)
