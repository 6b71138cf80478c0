"""The server's lot, seen through its public contract."""

from collections.abc import AsyncGenerator

from narthex.v1 import lot_pb2, lot_pb2_grpc

from narthex_bridge.caller import Caller
from narthex_bridge.server.connection import Connection


class Lot:
    """LotService: work that nobody waits for, pools and locks; every failure is a BackendError fit for clients."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lot = lot_pb2_grpc.LotServiceStub(connection.channel)

    async def submit(self, caller: Caller, request_id: str, request: lot_pb2.SubmitRequest) -> lot_pb2.SubmitResponse:
        return await self._connection.ask(self._lot.Submit, request, caller, request_id)

    async def ticket(self, caller: Caller, request_id: str, name: str) -> lot_pb2.GetTicketResponse:
        request = lot_pb2.GetTicketRequest(ticket_id=name)
        return await self._connection.ask(self._lot.GetTicket, request, caller, request_id)

    async def cancel(self, caller: Caller, request_id: str, name: str) -> lot_pb2.Ticket:
        request = lot_pb2.CancelRequest(ticket_id=name)
        return (await self._connection.ask(self._lot.Cancel, request, caller, request_id)).ticket

    def fetch(
        self, caller: Caller, request_id: str, request: lot_pb2.FetchRequest
    ) -> AsyncGenerator[lot_pb2.FetchResponse, None]:
        """Of work that failed, ends with how it did."""
        return self._connection.stream(self._lot.Fetch, request, caller, request_id)

    def watch(
        self, caller: Caller, request_id: str, request: lot_pb2.WatchRequest
    ) -> AsyncGenerator[lot_pb2.WatchResponse, None]:
        """Closing the iterator changes nothing for the work."""
        return self._connection.stream(self._lot.Watch, request, caller, request_id)

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
