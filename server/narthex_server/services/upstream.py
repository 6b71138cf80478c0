"""UpstreamService over the catalog's servers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import upstream_pb2 as wire

from narthex_server.services.complete import complete
from narthex_server.tools.acts import Acts, acting
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.server import ServerState, ServerStatus

Context = ServicerContext[Any, Any]

STATES: Mapping[ServerState, wire.UpstreamState.ValueType] = MappingProxyType(
    {
        ServerState.STARTING: wire.UPSTREAM_STATE_CONNECTING,
        ServerState.READY: wire.UPSTREAM_STATE_READY,
        ServerState.UNHEALTHY: wire.UPSTREAM_STATE_UNHEALTHY,
        ServerState.STOPPED: wire.UPSTREAM_STATE_DISABLED,
    }
)


@complete(wire.DESCRIPTOR.services_by_name["UpstreamService"])
class UpstreamService:
    """Shows the upstreams and connects them anew."""

    def __init__(self, catalog: Catalog, acts: Acts) -> None:
        self._catalog = catalog
        self._acts = acts

    async def ListUpstreams(self, request: wire.ListUpstreamsRequest, context: Context) -> wire.ListUpstreamsResponse:
        return wire.ListUpstreamsResponse(upstreams=map(upstream_to_wire, self._catalog.servers()))

    async def ReconnectUpstream(
        self, request: wire.ReconnectUpstreamRequest, context: Context
    ) -> wire.ReconnectUpstreamResponse:
        with acting(self._acts, "upstream.reconnect", request.name):
            status = await self._catalog.reconnect(request.name)
        return wire.ReconnectUpstreamResponse(upstream=upstream_to_wire(status))


def upstream_to_wire(status: ServerStatus) -> wire.Upstream:
    return wire.Upstream(
        name=status.name,
        state=STATES[status.state],
        failure=status.reason,
        transport=status.transport,
        scope=wire.UPSTREAM_SCOPE_SHARED,
        tools=status.tools,
        protocol_version=status.protocol_version,
        failures=status.attempts,
    )
