"""The desk, as each caller sees it."""

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

from narthex_server.errors import AlreadyExists
from narthex_server.lot.desk import Desk, Kept, missing
from narthex_server.lot.ticket import Holding, Order, State, Ticket
from narthex_server.principal import CALLER
from narthex_server.services.works.whose import Whose


class Window:
    """Shows the running RPC's caller its own tickets, and an admin key those of its tenant.

    One's own are of the same name and tenant, and were given with no more tools than the caller has now: what was made
    with them is in the results. All others do not exist.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def submit(self, order: Order) -> Ticket:
        """As Desk.submit. Raises AlreadyExists where the key is that of another caller's order."""
        return _own(await self._desk.submit(order))

    async def begin(self, order: Order) -> tuple[Ticket, bool]:
        """As Desk.begin; errors as `submit`."""
        ticket, new = await self._desk.begin(order)
        return _own(ticket), new

    async def get(self, ticket: str) -> Ticket:
        """Raises NotFound."""
        found = await self._desk.get(CALLER.get().tenant, ticket)
        if not _shown(found):
            raise missing(ticket)
        return found

    async def ahead(self, ticket: Ticket) -> int:
        """As Desk.ahead."""
        return await self._desk.ahead(ticket)

    async def cancel(self, ticket: str) -> Ticket:
        """As Desk.cancel."""
        await self.get(ticket)
        return await self._desk.cancel(CALLER.get().tenant, ticket)

    async def list(self, states: Collection[State], before: tuple[float, str] | None, most: int) -> Sequence[Ticket]:
        """As Desk.list, others' included, which `shown` leaves out: pages go on after them."""
        return await self._desk.list(CALLER.get().tenant, states, before, most)

    def shown(self, tickets: Sequence[Ticket]) -> Sequence[Ticket]:
        """Those that the caller sees."""
        return [ticket for ticket in tickets if _shown(ticket)]

    async def holding(self) -> Holding:
        """As Desk.holding: of the whole tenant, which the quota is of."""
        return await self._desk.holding(CALLER.get().tenant)

    async def follow(self, ticket: str, after: int = 0, until: float | None = None) -> AsyncGenerator[Kept | Ticket]:
        """As Desk.follow."""
        await self.get(ticket)
        async with aclosing(self._desk.follow(CALLER.get().tenant, ticket, after, until)) as told:
            async for one in told:
                yield one

    async def watch(self, tickets: Sequence[str]) -> AsyncGenerator[Ticket]:
        """As Desk.watch."""
        for name in tickets:
            await self.get(name)
        async with aclosing(self._desk.watch(CALLER.get().tenant, tickets)) as found:
            async for ticket in found:
                if _shown(ticket):
                    yield ticket


def _shown(ticket: Ticket) -> bool:
    caller, owner = CALLER.get(), Whose.parse(ticket.order.principal).principal
    return caller.admin or (owner.name == caller.name and owner.tools.within(caller.tools))


def _own(ticket: Ticket) -> Ticket:
    if not _shown(ticket):
        raise AlreadyExists("another order has this idempotency key", reason="KEY_REUSED")
    return ticket
