"""What a database of tickets does, whichever it is."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from narthex_server.lot.ticket import Change, Holding, Order, Outcome, State, Ticket

TELLING_SECONDS = 60.0
"""How long a server that was given an owed ticket has for telling its webhook, before another is given it."""


class LeaseLost(Exception):
    """The ticket is no longer this holder's: it was cancelled, or its lease ran out and another server has it.

    A lease that ran out while nobody else took the ticket is still good: `attempt` alone says whose it is.
    """


@dataclass(frozen=True, slots=True)
class Lease:
    """A ticket that is this server's to work on, in its `attempt`, until it is over or nobody renews it."""

    tenant: str
    ticket: str
    attempt: int


class TicketStore(Protocol):
    """Every answer means that the change is safe from the death of this process; every method raises Unavailable where
    the database fails (a full disk, a lost connection), having changed nothing, and works again when the database does.

    Methods may be called at once from many tasks of one event loop; what they write is committed together where that
    is faster. A tenant never sees another's ticket: a wrong tenant is as a ticket that does not exist (None), and so is
    one that has expired, swept or not; two tenants may each have one of the same id. `lease` is in seconds from now, by
    one clock for all servers.

    The request, which may be large, comes with the tickets of `add`, `take` and `get`; in all others it is empty.
    """

    async def add(self, order: Order, lease: float | None = None) -> tuple[Ticket, bool]:
        """Keeps an order; with `lease` it is this server's at once, as if it was taken. True: it is new.

        Where the tenant's key is used already, the ticket that has it, however full the lot. Errors: AlreadyExists,
        where that was another order (reason KEY_REUSED), or the tenant has a ticket of this id (TICKET_EXISTS);
        ResourceExhausted (reason LOT_FULL), with the numbers, where the tenant has too much.
        """
        ...

    async def take(self, most: int, lease: float) -> Sequence[Ticket]:
        """Makes the next tickets this server's: those that wait, and those at work (or waiting for input) whose lease
        has run out.

        One after the other: of the tenants with the fewest tickets RUNNING under a lease that has not run out, these
        included, the one of the lowest `Order.rank`: who has waited longest, a level of priority counting as
        LEVEL_SECONDS waited. Each comes RUNNING, with its new `attempt`. What is past its deadline is not taken.
        """
        ...

    async def renew(self, leases: Collection[Lease], lease: float) -> Collection[Lease]:
        """Those of them that are still this server's."""
        ...

    async def append(self, lease: Lease, events: Sequence[bytes]) -> int:
        """Keeps what happened; gives the number of the last event. Errors: LeaseLost; ResourceExhausted as `add`."""
        ...

    async def move(self, lease: Lease, state: State) -> Ticket:
        """Work waits for input (INPUT_REQUIRED), or goes on (RUNNING). Errors: LeaseLost."""
        ...

    async def finish(self, lease: Lease, outcome: Outcome, events: Sequence[bytes] = ()) -> Ticket:
        """Ends it, with its last events, however full the lot: both or neither. Errors: LeaseLost."""
        ...

    async def release(self, lease: Lease) -> None:
        """Gives it back to wait in its old place, because this server is shutting down. Errors: LeaseLost."""
        ...

    async def cancel(self, tenant: str, ticket: str) -> Ticket | None:
        """Ends it as CANCELLED; of one that is over the events go, and it expires at once. As it is then."""
        ...

    async def get(self, tenant: str, ticket: str) -> Ticket | None: ...

    async def ahead(self, tenant: str, ticket: str) -> int:
        """How many tickets are probably taken before it; 0 where it does not wait.

        Those of its tenant that wait with a lower rank, and of every other tenant as many and one more, as far as it
        has so many of lower rank than this one.
        """
        ...

    async def list(
        self, tenant: str, states: Collection[State], before: tuple[float, str] | None, most: int
    ) -> Sequence[Ticket]:
        """Those in one of the states (none: any), the newest first, from the one after (submitted, id) on."""
        ...

    async def events(self, tenant: str, ticket: str, after: int, most_bytes: int) -> Sequence[bytes]:
        """What happened after so many events: as many as fit into `most_bytes`, at least one where there is one."""
        ...

    async def holding(self, tenant: str | None) -> Holding:
        """What a tenant has, or all of them together."""
        ...

    async def sweep(self) -> Sequence[Ticket]:
        """Forgets what has expired, and ends as CANCELLED what is past its deadline and waits, or is at work under a
        lease that has run out; gives those.
        """
        ...

    def changes(self) -> AsyncIterator[Change]:
        """What changes from now on, by whichever server; several changes of a ticket may come as one.

        That a ticket expires, and is forgotten, is no change.
        """
        ...

    async def owed(self, most: int) -> Sequence[Ticket]:
        """Tickets that are over and whose webhook is to be told now, by this server: they are not given again within
        TELLING_SECONDS. The one of each tenant that is due longest, then the second of each, …
        """
        ...

    async def told(self, tenant: str, ticket: str, again: float | None) -> None:
        """Its webhook knows, or is to be tried again in so many seconds."""
        ...

    async def close(self) -> None: ...
