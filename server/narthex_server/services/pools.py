"""What work shares and waits for, seen and changed by callers."""

from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import lot_pb2 as wire

from narthex_server.lot.lot import Lot
from narthex_server.lot.pool import PoolReading
from narthex_server.principal import CALLER, Principal
from narthex_server.services.admins import check_admin
from narthex_server.services.priorities import SHOWN
from narthex_server.services.times import duration
from narthex_server.tools.acts import Acts, acting
from narthex_server.tools.admission.pools import pool_of
from narthex_server.tools.catalog import Catalog

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
        return wire.ListPoolsResponse(pools=map(_pool, shown))

    async def ResizePool(self, request: wire.ResizePoolRequest, context: Context) -> wire.ResizePoolResponse:
        with acting(self._acts, "pool.resize", request.pool):
            self._acts.enter()
            check_admin(context, CHANGE)
            pool = self._lot.resize(request.pool, dict(request.capacity))
        return wire.ResizePoolResponse(pool=_pool(pool.reading()))

    async def DrainPool(self, request: wire.DrainPoolRequest, context: Context) -> wire.DrainPoolResponse:
        with acting(self._acts, "pool.resume" if request.resume else "pool.drain", request.pool):
            self._acts.enter()
            check_admin(context, CHANGE)
            pools = self._lot.drain(request.pool, draining=not request.resume)
        return wire.DrainPoolResponse(pools=[_pool(pool.reading()) for pool in pools])

    def _upstreams(self, principal: Principal | None) -> set[str]:
        return {pool_of(server.name) for server in self._catalog.servers(principal)}


def _pool(reading: PoolReading) -> wire.Pool:
    return wire.Pool(
        name=reading.name,
        resources=[
            wire.PoolResource(
                name=resource, used=reading.used[resource], capacity=amount, max_capacity=reading.most[resource]
            )
            for resource, amount in reading.capacity.items()
        ],
        running=reading.running,
        waiting=[
            wire.WaitingWork(priority=SHOWN[priority], count=count) for priority, count in reading.waiting.items()
        ],
        max_waiting=reading.max_waiting,
        draining=reading.draining,
        longest_wait=duration(reading.longest_wait),
    )
