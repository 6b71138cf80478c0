"""Who does the work of tickets."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from narthex_server.lot.ticket import Order, Outcome


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened in a ticket's work; with `waits` it goes on when somebody has answered."""

    event: bytes
    waits: bool = False


class Runner(Protocol):
    """Understands what orders ask for, which the lot does not."""

    def run(self, order: Order, attempt: int, kept: Sequence[bytes]) -> AsyncGenerator[Happening]:
        """Does the work, in a task of its own; yields what is not among the `kept` events of attempts before.

        Closing it cancels the work. Raises what the work failed with; Interrupted where it must not be begun again.
        """
        ...

    def ended(self, order: Order) -> None:
        """This server works on it no more: nothing has to be remembered."""
        ...

    def outcome(self, error: Exception) -> Outcome:
        """How work ends that failed with an error."""
        ...
