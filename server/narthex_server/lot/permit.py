"""The right to run until it is given back."""

from typing import TYPE_CHECKING, Self

from narthex_server.lot.units import Units
from narthex_server.lot.work import Work

if TYPE_CHECKING:
    from narthex_server.lot.pool import Pool


class Permit:
    """What admitted work holds of its pool; leaving its block, or `release`, gives it back."""

    __slots__ = ("_pool", "_work")

    def __init__(self, pool: "Pool", work: Work) -> None:
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
