"""A piece of work before, while and after a pool admits it."""

from dataclasses import dataclass
from enum import Enum, auto

from narthex_server.errors import NarthexError
from narthex_server.lot.terms import Priority
from narthex_server.lot.units import Units


class Stage(Enum):
    """Where work is at its pool."""

    WAITING = auto()
    ADMITTED = auto()
    OVER = auto()


@dataclass(slots=True, eq=False)
class Work:
    """What wants to be admitted; times are on the clock of whoever asks for it.

    `number` grows with every piece that comes. `passed`: when work behind it was first let in before it. `error`: why
    it is over without having been admitted.
    """

    tenant: str
    priority: Priority
    cost: Units
    deadline: float | None
    came: float
    number: int
    stage: Stage = Stage.WAITING
    passed: float | None = None
    error: NarthexError | None = None

    @property
    def admitted(self) -> bool:
        return self.stage is Stage.ADMITTED

    def late(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        return self.deadline is not None and now >= self.deadline
