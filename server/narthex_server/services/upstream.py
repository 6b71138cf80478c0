"""UpstreamService over the catalog's servers."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import upstream_pb2 as wire

from narthex_server.principal import CALLER
from narthex_server.services.complete import complete
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.names import Renamed
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

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListUpstreams(self, request: wire.ListUpstreamsRequest, context: Context) -> wire.ListUpstreamsResponse:
        return wire.ListUpstreamsResponse(upstreams=map(self._to_wire, self._catalog.servers(CALLER.get())))

    async def ReconnectUpstream(
        self, request: wire.ReconnectUpstreamRequest, context: Context
    ) -> wire.ReconnectUpstreamResponse:
        status = await self._catalog.reconnect(request.name, CALLER.get())
        return wire.ReconnectUpstreamResponse(upstream=self._to_wire(status))

    def _to_wire(self, status: ServerStatus) -> wire.Upstream:
        renamed = self._catalog.view(CALLER.get()).tools.renamed
        return upstream_to_wire(status, (one for one in renamed if one.server == status.name))


def upstream_to_wire(status: ServerStatus, renamed: Iterable[Renamed] = ()) -> wire.Upstream:
    return wire.Upstream(
        name=status.name,
        state=STATES[status.state],
        failure=status.reason,
        transport=status.transport,
        scope=wire.UpstreamScope.Value(f"UPSTREAM_SCOPE_{status.scope.upper()}"),
        tools=status.tools,
        protocol_version=status.protocol_version,
        failures=status.attempts,
        renamed_tools=map(_renamed_to_wire, renamed),
    )


def _renamed_to_wire(renamed: Renamed) -> wire.RenamedTool:
    return wire.RenamedTool(
        own_name=renamed.own_name,
        exposed_name=renamed.name,
        reason=wire.RenameReason.Value(f"RENAME_REASON_{renamed.reason.name}"),
        other_name=renamed.other,
    )
