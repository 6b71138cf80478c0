"""Who hears of what becomes of tickets."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from narthex_server.lot.ticket import Holding, Ticket


class Verb(Enum):
    """What became of a ticket."""

    SUBMITTED = "submit"
    STARTED = "start"
    ASKED = "ask"
    RELEASED = "release"
    FINISHED = "finish"
    CANCELLED = "cancel"
    DISCARDED = "discard"
    EXPIRED = "expire"
    TOLD = "notify"


@dataclass(frozen=True, slots=True)
class Transition:
    """A ticket as it is after something became of it, whose `error` is the reason that it failed with, or empty."""

    verb: Verb
    ticket: Ticket
    error: str = ""


class TicketObserver(Protocol):
    """Is told on the event loop, and must not wait."""

    def on_transition(self, transition: Transition) -> None: ...

    def on_holding(self, holding: Holding) -> None:
        """What all tenants have together, told every few seconds."""
        ...


class Observers:
    """Several as one."""

    def __init__(self, *observers: TicketObserver) -> None:
        self._observers = observers

    def on_transition(self, transition: Transition) -> None:
        for observer in self._observers:
            observer.on_transition(transition)

    def on_holding(self, holding: Holding) -> None:
        for observer in self._observers:
            observer.on_holding(holding)
