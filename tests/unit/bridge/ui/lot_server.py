"""A real server of the contract that has a lot, or had none yet."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from narthex.v1 import (
    generation_pb2_grpc,
    lot_pb2,
    lot_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
    upstream_pb2,
    upstream_pb2_grpc,
)

from tests.unit.bridge.tool_server import refuse


@dataclass
class LotServer(
    model_pb2_grpc.ModelServiceServicer,
    lot_pb2_grpc.LotServiceServicer,
    upstream_pb2_grpc.UpstreamServiceServicer,
    generation_pb2_grpc.GenerationServiceServicer,
    tool_pb2_grpc.ToolServiceServicer,
):
    """What it is asked is counted by name; what it tells is in `models` and so on, in a chat `said`; names in `failing`
    fail."""

    address: str = ""
    models: list[Any] = field(default_factory=list)
    occupancy: Any = field(default_factory=lot_pb2.GetOccupancyResponse)
    pools: list[Any] = field(default_factory=list)
    tickets: list[Any] = field(default_factory=list)
    locks: list[Any] = field(default_factory=list)
    upstreams: list[Any] = field(default_factory=list)
    said: list[Any] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    metadata: list[dict[str, str]] = field(default_factory=list)
    rounds: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def round(self) -> None:
        """Waits until it is asked once more."""
        await asyncio.wait_for(self.rounds.acquire(), 10)

    async def _note(self, name: str, context: Any) -> None:
        self.asked[name] += 1
        self.metadata.append(dict(context.invocation_metadata()))
        if name in self.failing:
            await refuse(context, 8, "BUSY", f"{name} has no time.")

    async def ListModels(self, request: Any, context: Any) -> Any:
        self.rounds.release()
        await self._note("models", context)
        return model_pb2.ListModelsResponse(models=self.models)

    async def GetOccupancy(self, request: Any, context: Any) -> Any:
        await self._note("occupancy", context)
        return self.occupancy

    async def ListPools(self, request: Any, context: Any) -> Any:
        await self._note("pools", context)
        return lot_pb2.ListPoolsResponse(pools=self.pools)

    async def ListTickets(self, request: Any, context: Any) -> Any:
        await self._note("tickets", context)
        return lot_pb2.ListTicketsResponse(tickets=self.tickets)

    async def ListLocks(self, request: Any, context: Any) -> Any:
        await self._note("locks", context)
        return lot_pb2.ListLocksResponse(locks=self.locks)

    async def ListUpstreams(self, request: Any, context: Any) -> Any:
        await self._note("upstreams", context)
        return upstream_pb2.ListUpstreamsResponse(upstreams=self.upstreams)

    async def ChatStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for event in self.said:
            yield event

    async def WatchTools(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield tool_pb2.WatchToolsResponse()


@asynccontextmanager
async def serving(*, lot: bool = True) -> AsyncIterator[LotServer]:
    server, service = grpc.aio.server(), LotServer()
    adding: list[Callable[[Any, Any], None]] = [
        model_pb2_grpc.add_ModelServiceServicer_to_server,
        upstream_pb2_grpc.add_UpstreamServiceServicer_to_server,
        generation_pb2_grpc.add_GenerationServiceServicer_to_server,
        tool_pb2_grpc.add_ToolServiceServicer_to_server,
    ]
    for add in (*adding, *((lot_pb2_grpc.add_LotServiceServicer_to_server,) if lot else ())):
        add(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(0)
