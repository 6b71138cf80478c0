from narthex.v1 import lot_pb2 as wire
from narthex_server.services.locks import LockRpcs
from narthex_server.sync.locks import Locks
from narthex_server.sync.reading import Distribution, LockReading


class Known(Locks):
    """Locks that stand as it is told."""

    def __init__(self, *readings: LockReading) -> None:
        super().__init__("metered")
        self._known = readings

    def readings(self) -> tuple[LockReading, ...]:
        return self._known


async def listed(locks: Locks) -> list[wire.LockReading]:
    response = await LockRpcs(locks).ListLocks(wire.ListLocksRequest(), None)  # type: ignore[arg-type]
    return list(response.locks)


async def test_a_lock_that_was_waited_for_says_how_long():
    waits = Distribution((0, 0, 0, 1, *[0] * 13), 0.000_2, 0.000_2)
    (found,) = await listed(Known(LockReading("a", 7, waits, Distribution((1, *[0] * 16), 0.000_005, 0.000_005))))
    assert (found.name, found.acquisitions, found.contended) == ("a", 7, 1)
    assert (found.waited.nanos, found.wait_p99.nanos, found.held_mean.nanos) == (200_000, 200_000, 5_000)


async def test_what_is_not_known_is_not_said():
    (found,) = await listed(Known(LockReading("a")))
    assert not found.HasField("wait_p99")
    assert not found.HasField("held_mean")
    assert found.waited.nanos == 0


async def test_locks_come_by_name_and_only_where_they_are_metered():
    locks = Locks("metered")
    for name in ("b", "a"):
        with locks.mutex(name):
            pass
    assert [one.name for one in await listed(locks)] == ["a", "b"]
    assert await listed(Locks("off")) == []
