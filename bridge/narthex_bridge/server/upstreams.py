"""The MCP servers behind the server, seen through its public contract."""

from narthex.v1 import upstream_pb2, upstream_pb2_grpc

from narthex_bridge.caller import Caller
from narthex_bridge.server.connection import Connection


class Upstreams:
    """The list of UpstreamService; every failure is a BackendError fit for clients."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._upstreams = upstream_pb2_grpc.UpstreamServiceStub(connection.channel)

    async def list(
        self, caller: Caller, request_id: str, request: upstream_pb2.ListUpstreamsRequest, limit_s: float | None = None
    ) -> upstream_pb2.ListUpstreamsResponse:
        return await self._connection.ask(self._upstreams.ListUpstreams, request, caller, request_id, limit_s)
