"""A gate whose time passes as the test says."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from narthex_server.lot.gate import Gate
from narthex_server.lot.limits import Limits
from narthex_server.lot.terms import Priority, Terms
from narthex_server.lot.work import Work

SPACIOUS = Limits(waiting=10_000, ageing=1e9, patience=1e9)


@dataclass
class Place:
    """A gate with one resource, `units`, and a clock; what is admitted is remembered in its order."""

    gate: Gate
    now: float = 0.0
    admitted: list[Work] = field(default_factory=list)

    def enter(
        self, units: int = 1, priority: Priority = Priority.NORMAL, tenant: str = "t", deadline: float | None = None
    ) -> Work:
        work = self.gate.enter(tenant, Terms(priority, deadline), {"units": units}, self.now)
        if work.admitted:
            self.admitted.append(work)
        self.look()
        return work

    def leave(self, *works: Work) -> None:
        for work in works:
            self.gate.leave(work, self.now)
        self.look()

    def look(self) -> None:
        self.admitted += [work for work in self.gate.settled() if work.admitted]

    def serve(self) -> list[Work]:
        """Ends the oldest until nothing is there; all that was admitted, in that order."""
        for work in self.admitted:  # which grows meanwhile
            self.leave(work)
        return self.admitted


@pytest.fixture
def place() -> Callable[..., Place]:
    def made(capacity: int = 1, limits: Limits = SPACIOUS) -> Place:
        return Place(Gate("p", {"units": capacity}, limits))

    return made
