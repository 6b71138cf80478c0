"""Work that nobody waits on the line for."""

from dataclasses import dataclass, field
from enum import Enum

from narthex_server.lot.terms import Priority


class State(Enum):
    """Where a ticket is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    INPUT_REQUIRED = "input_required"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing changes any more."""
        return self in (State.DONE, State.FAILED, State.CANCELLED)


LEVEL_SECONDS = 600.0
"""How long work of one level of priority must have waited to stand beside new work of the next."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Whom to tell of the end; an empty `secret` signs nothing."""

    url: str
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, for whom, and how; never changes. Times in seconds since 1970.

    `principal` is whose work it is, as JSON; `request` what to do, of the `kind` that says who understands it. `digest`
    is of its content: a second order of a tenant with the same `key` has to have the same (an empty key promises
    nothing). `deadline`: when its time is over, waiting included. `keep`: seconds that the result is kept. Work that is
    not `repeatable` must not be begun a second time, because it may have done something already.
    """

    id: str
    tenant: str
    principal: bytes
    kind: str
    request: bytes = field(repr=False)
    digest: bytes
    submitted: float
    keep: float
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    key: str = ""
    repeatable: bool = True
    webhook: Webhook | None = None

    @property
    def rank(self) -> float:
        """Its place among those that wait: the lower is taken first, of equal ones the lower id."""
        return self.submitted - LEVEL_SECONDS * (self.priority - Priority.NORMAL)


@dataclass(frozen=True, slots=True)
class Ticket:
    """An order and how it is; `events` is how many are kept, `size` the bytes of request and events, `version` grows
    with every change of the rest.

    `attempt`: how often it was begun; `started`: when first. `expires`: from when on it does not exist any more; only
    after the end. `code` and `status` say how failed work failed (a google.rpc.Code, and the serialised
    google.rpc.Status).
    """

    order: Order
    state: State = State.WAITING
    version: int = 1
    attempt: int = 0
    started: float | None = None
    ended: float | None = None
    expires: float | None = None
    events: int = 0
    size: int = 0
    code: int = 0
    status: bytes = b""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How work ended; see Ticket."""

    state: State
    code: int = 0
    status: bytes = b""


@dataclass(frozen=True, slots=True)
class Change:
    """Something of a ticket is new: its `version`, or how many `events` it has."""

    tenant: str
    id: str
    version: int
    events: int


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one tenant, at most: tickets that are not over, and bytes of requests and events that are kept."""

    open: int = 1000
    size: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Holding:
    """What one tenant has in the lot: tickets that are not over, results that wait, and the bytes of all of them, until
    expired ones are swept.
    """

    open: int
    parked: int
    size: int
