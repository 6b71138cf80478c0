"""On which terms a call asks for what is scarce."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum


class Priority(IntEnum):
    """How urgent work is; the higher goes first, until the lower has waited long enough."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """`deadline`: on the event loop's clock, after which nobody waits for the work any more; None is never."""

    priority: Priority = Priority.NORMAL
    deadline: float | None = None


TERMS: ContextVar[Terms] = ContextVar("terms", default=Terms())  # noqa: B039 (frozen)
"""Those of the running call, in the call's own context; the tenant is that of `principal.CALLER`."""
