"""What the lot's service tells of the locks."""

from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc.aio import ServicerContext
from narthex.v1 import lot_pb2 as wire

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
        waited=_duration(reading.waited),
        wait_p99=_duration(reading.wait_p99),
        held_mean=_duration(reading.held_mean),
    )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made
