"""UpstreamService over the catalog's servers."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import upstream_pb2 as wire

from narthex_server.principal import CALLER, Principal
from narthex_server.services.admins import check_admin
from narthex_server.services.complete import complete
from narthex_server.services.times import timestamp
from narthex_server.services.upstream_spec import source_from
from narthex_server.tools.acts import Acts, acting
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.fleet import Fleet
from narthex_server.tools.names import Renamed
from narthex_server.tools.server import BreakerState, ServerState, ServerStatus, Vitals

Context = ServicerContext[Any, Any]

STATES: Mapping[ServerState, wire.UpstreamState.ValueType] = MappingProxyType(
    {
        ServerState.STARTING: wire.UPSTREAM_STATE_CONNECTING,
        ServerState.READY: wire.UPSTREAM_STATE_READY,
        ServerState.UNHEALTHY: wire.UPSTREAM_STATE_UNHEALTHY,
        ServerState.STOPPED: wire.UPSTREAM_STATE_DISABLED,
    }
)
BREAKERS: Mapping[BreakerState | None, wire.BreakerState.ValueType] = MappingProxyType(
    {
        None: wire.BREAKER_STATE_UNSPECIFIED,
        BreakerState.CLOSED: wire.BREAKER_STATE_CLOSED,
        BreakerState.OPEN: wire.BREAKER_STATE_OPEN,
        BreakerState.HALF_OPEN: wire.BREAKER_STATE_HALF_OPEN,
    }
)


@complete(wire.DESCRIPTOR.services_by_name["UpstreamService"])
class UpstreamService:
    """Shows the upstreams; adds, removes and connects them anew for those who may."""

    def __init__(self, catalog: Catalog, fleet: Fleet, acts: Acts) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._acts = acts

    async def ListUpstreams(self, request: wire.ListUpstreamsRequest, context: Context) -> wire.ListUpstreamsResponse:
        return wire.ListUpstreamsResponse(upstreams=map(self._upstream, self._catalog.servers(_sees())))

    async def AddUpstream(self, request: wire.AddUpstreamRequest, context: Context) -> wire.AddUpstreamResponse:
        with acting(self._acts, "upstream.add", request.spec.name):
            self._acts.enter()
            check_admin(context, "change upstreams")
            status = await self._fleet.add(source_from(request.spec))
        return wire.AddUpstreamResponse(upstream=self._upstream(status))

    async def RemoveUpstream(
        self, request: wire.RemoveUpstreamRequest, context: Context
    ) -> wire.RemoveUpstreamResponse:
        with acting(self._acts, "upstream.remove", request.name):
            self._acts.enter()
            check_admin(context, "change upstreams")
            await self._fleet.remove(request.name)
        return wire.RemoveUpstreamResponse()

    async def ReconnectUpstream(
        self, request: wire.ReconnectUpstreamRequest, context: Context
    ) -> wire.ReconnectUpstreamResponse:
        """Those who may change it connect all of it anew, and others what their own tenant has for itself."""
        caller = CALLER.get()
        shared = any(one.name == request.name and one.scope == "shared" for one in self._catalog.servers(_sees()))
        with acting(self._acts, "upstream.reconnect", request.name):
            self._acts.enter()
            if shared:
                check_admin(context, "change upstreams")
            status = await self._catalog.reconnect(request.name, None if caller.admin else caller)
        return wire.ReconnectUpstreamResponse(upstream=self._upstream(status))

    def _upstream(self, status: ServerStatus) -> wire.Upstream:
        caller, vitals = CALLER.get(), Vitals()
        renamed = self._catalog.renamed if caller.admin else self._catalog.view(caller).tools.renamed
        mine = (one for one in renamed if one.server == status.name)
        if (server := self._catalog.roster.get(status.name)) is not None:
            vitals = server.vitals if caller.admin else server.vitals_of(caller.tenant)
        return upstream_to_wire(status, vitals, mine)


def upstream_to_wire(status: ServerStatus, vitals: Vitals, renamed: Iterable[Renamed] = ()) -> wire.Upstream:
    return wire.Upstream(
        name=status.name,
        state=STATES[status.state],
        failure=status.reason,
        transport=status.transport,
        scope=wire.UpstreamScope.Value(f"UPSTREAM_SCOPE_{status.scope.upper()}"),
        tools=status.tools,
        server_name=status.server_name,
        server_version=status.server_version,
        protocol_version=status.protocol_version,
        failures=status.attempts,
        renamed_tools=map(_renamed_to_wire, renamed),
        state_time=timestamp(status.since or None),
        next_attempt_time=timestamp(status.next_attempt or None),
        breaker=BREAKERS[vitals.breaker],
        breaker_retry_time=timestamp(vitals.breaker_retry or None),
        last_success_time=timestamp(vitals.last_success or None),
    )


def _renamed_to_wire(renamed: Renamed) -> wire.RenamedTool:
    return wire.RenamedTool(
        own_name=renamed.own_name,
        exposed_name=renamed.name,
        reason=wire.RenameReason.Value(f"RENAME_REASON_{renamed.reason.name}"),
        other_name=renamed.other,
    )


def _sees() -> Principal | None:
    """Whose upstreams are shown: an admin sees those of all."""
    return None if CALLER.get().admin else CALLER.get()
