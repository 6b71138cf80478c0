"""The server's lot, seen through its public contract."""

from narthex.v1 import lot_pb2, lot_pb2_grpc

from narthex_bridge.caller import Caller
from narthex_bridge.server.connection import Connection


class Lot:
    """What LotService tells of work, pools and locks; every failure is a BackendError fit for clients."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lot = lot_pb2_grpc.LotServiceStub(connection.channel)

    async def occupancy(
        self, caller: Caller, request_id: str, request: lot_pb2.GetOccupancyRequest, limit_s: float | None = None
    ) -> lot_pb2.GetOccupancyResponse:
        return await self._connection.ask(self._lot.GetOccupancy, request, caller, request_id, limit_s)

    async def list_pools(
        self, caller: Caller, request_id: str, request: lot_pb2.ListPoolsRequest, limit_s: float | None = None
    ) -> lot_pb2.ListPoolsResponse:
        return await self._connection.ask(self._lot.ListPools, request, caller, request_id, limit_s)

    async def list_tickets(
        self, caller: Caller, request_id: str, request: lot_pb2.ListTicketsRequest, limit_s: float | None = None
    ) -> lot_pb2.ListTicketsResponse:
        return await self._connection.ask(self._lot.ListTickets, request, caller, request_id, limit_s)

    async def list_locks(
        self, caller: Caller, request_id: str, request: lot_pb2.ListLocksRequest, limit_s: float | None = None
    ) -> lot_pb2.ListLocksResponse:
        return await self._connection.ask(self._lot.ListLocks, request, caller, request_id, limit_s)
