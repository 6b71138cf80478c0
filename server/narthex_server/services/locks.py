"""What the lot's service tells of the locks."""

from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import lot_pb2 as wire

from narthex_server.services.times import duration
from narthex_server.sync.locks import Locks
from narthex_server.sync.reading import LockReading

Context = ServicerContext[Any, Any]


class LockRpcs:
    """The part of LotService that is about locks."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    async def ListLocks(self, request: wire.ListLocksRequest, context: Context) -> wire.ListLocksResponse:
        return wire.ListLocksResponse(locks=map(_reading, self._locks.readings()))


def _reading(reading: LockReading) -> wire.LockReading:
    return wire.LockReading(
        name=reading.name,
        acquisitions=reading.acquisitions,
        contended=reading.contended,
        waited=duration(reading.waited),
        wait_p99=duration(reading.wait_p99),
        held_mean=duration(reading.held_mean),
    )
