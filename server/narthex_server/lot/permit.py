"""The right to run until it is given back."""

from typing import Protocol, Self

from narthex_server.lot.units import Units
from narthex_server.lot.work import Work


class Admits(Protocol):
    """What a permit needs of the pool that it is of."""

    def leave(self, work: Work) -> None: ...

    def correct(self, work: Work, cost: Units) -> None: ...


class Permit:
    """What admitted work holds of its pool; leaving its block, or `release`, gives it back."""

    __slots__ = ("_pool", "_work")

    def __init__(self, pool: Admits, work: Work) -> None:
        self._pool = pool
        self._work = work

    @property
    def cost(self) -> Units:
        """What it holds."""
        return self._work.cost

    def correct(self, cost: Units) -> None:
        """It takes this instead of what was asked for; where that is less, others may begin."""
        self._pool.correct(self._work, cost)

    def release(self) -> None:
        """The work is over; a second time changes nothing."""
        self._pool.leave(self._work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
