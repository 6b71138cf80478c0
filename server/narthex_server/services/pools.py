"""What work shares and waits for, seen and changed by callers."""

from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc.aio import ServicerContext
from narthex.v1 import common_pb2 as common
from narthex.v1 import lot_pb2 as wire

from narthex_server.lot.lot import Lot
from narthex_server.lot.pool import PoolReading
from narthex_server.lot.terms import Priority
from narthex_server.principal import CALLER, Principal
from narthex_server.services.admins import check_admin
from narthex_server.services.complete import complete
from narthex_server.tools.acts import Acts, acting
from narthex_server.tools.admission.pools import pool_of
from narthex_server.tools.catalog import Catalog

PRIORITIES = {
    Priority.LOW: common.PRIORITY_BATCH,
    Priority.NORMAL: common.PRIORITY_NORMAL,
    Priority.HIGH: common.PRIORITY_INTERACTIVE,
    Priority.CRITICAL: common.PRIORITY_CRITICAL,
}
CHANGE = "change pools"

Context = ServicerContext[Any, Any]


class PoolRpcs:
    """The part of LotService that is about pools."""

    def __init__(self, lot: Lot, catalog: Catalog, acts: Acts) -> None:
        """Of upstreams each caller sees the pools of those that the `catalog` shows it."""
        self._lot = lot
        self._catalog = catalog
        self._acts = acts

    async def ListPools(self, request: wire.ListPoolsRequest, context: Context) -> wire.ListPoolsResponse:
        caller = CALLER.get()
        hidden = set() if caller.admin else self._upstreams(None) - self._upstreams(caller)
        shown = (pool.reading() for pool in self._lot.pools if pool.name not in hidden)
        return wire.ListPoolsResponse(pools=map(pool_to_wire, shown))

    async def ResizePool(self, request: wire.ResizePoolRequest, context: Context) -> wire.ResizePoolResponse:
        with acting(self._acts, "pool.resize", request.pool):
            self._acts.enter()
            check_admin(context, CHANGE)
            pool = self._lot.resize(request.pool, dict(request.capacity))
        return wire.ResizePoolResponse(pool=pool_to_wire(pool.reading()))

    async def DrainPool(self, request: wire.DrainPoolRequest, context: Context) -> wire.DrainPoolResponse:
        with acting(self._acts, "pool.resume" if request.resume else "pool.drain", request.pool):
            self._acts.enter()
            check_admin(context, CHANGE)
            pools = self._lot.drain(request.pool, draining=not request.resume)
        return wire.DrainPoolResponse(pools=[pool_to_wire(pool.reading()) for pool in pools])

    def _upstreams(self, principal: Principal | None) -> set[str]:
        return {pool_of(server.name) for server in self._catalog.servers(principal)}


@complete(wire.DESCRIPTOR.services_by_name["LotService"])
class PoolService(PoolRpcs):
    """A LotService of pools alone."""


def pool_to_wire(reading: PoolReading) -> wire.Pool:
    made = wire.Pool(
        name=reading.name,
        resources=[
            wire.PoolResource(
                name=resource, used=reading.used[resource], capacity=amount, max_capacity=reading.most[resource]
            )
            for resource, amount in reading.capacity.items()
        ],
        running=reading.running,
        waiting=[
            wire.WaitingWork(priority=PRIORITIES[priority], count=count) for priority, count in reading.waiting.items()
        ],
        max_waiting=reading.max_waiting,
        draining=reading.draining,
    )
    if reading.longest_wait is not None:
        made.longest_wait.CopyFrom(_duration(reading.longest_wait))
    return made


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromMicroseconds(round(1e6 * max(seconds, 0.0)))
    return made
