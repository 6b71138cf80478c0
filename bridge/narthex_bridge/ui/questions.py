"""What the page asks the server, by the part that shows it."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from narthex.v1 import lot_pb2, model_pb2, upstream_pb2

from narthex_bridge.caller import Caller
from narthex_bridge.server.connection import Connection
from narthex_bridge.server.inference import Inference
from narthex_bridge.server.lot import Lot
from narthex_bridge.server.upstreams import Upstreams
from narthex_bridge.ui import rows

LIMIT_S = 5.0
"""How long one answer may take; meanwhile the page shows what it has."""
TICKETS = 10
"""The newest ones that are shown."""

Question = Callable[[Caller], Awaitable[Any]]


class Questions:
    """Asks for one caller, who is told no more than the server tells him anyway. All raise BackendError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inference = Inference(connection)
        self._lot = Lot(connection)
        self._upstreams = Upstreams(connection)

    @property
    def reachable(self) -> bool:
        return self._connection.reachable

    @property
    def by_part(self) -> Mapping[str, Question]:
        return MappingProxyType(
            {
                "models": self._models, "occupancy": self._occupancy, "pools": self._pools,
                "tickets": self._tickets, "locks": self._locks, "upstreams": self._listed,
            }
        )  # fmt: skip

    async def _models(self, caller: Caller) -> list[rows.Row]:
        found = await self._inference.list_models(caller, "", model_pb2.ListModelsRequest(), LIMIT_S)
        return [rows.model(model) for model in found.models]

    async def _occupancy(self, caller: Caller) -> rows.Row:
        return rows.occupancy(await self._lot.occupancy(caller, "", lot_pb2.GetOccupancyRequest(), LIMIT_S))

    async def _pools(self, caller: Caller) -> list[rows.Row]:
        found = await self._lot.list_pools(caller, "", lot_pb2.ListPoolsRequest(), LIMIT_S)
        return [rows.pool(pool) for pool in found.pools]

    async def _tickets(self, caller: Caller) -> list[rows.Row]:
        request = lot_pb2.ListTicketsRequest(page_size=TICKETS)
        found = await self._lot.list_tickets(caller, "", request, LIMIT_S)
        return [rows.ticket(ticket) for ticket in found.tickets]

    async def _locks(self, caller: Caller) -> list[rows.Row]:
        found = await self._lot.list_locks(caller, "", lot_pb2.ListLocksRequest(), LIMIT_S)
        return [rows.lock(lock) for lock in found.locks]

    async def _listed(self, caller: Caller) -> list[rows.Row]:
        found = await self._upstreams.list(caller, "", upstream_pb2.ListUpstreamsRequest(), LIMIT_S)
        return [rows.upstream(upstream) for upstream in found.upstreams]
