"""Calls that become tickets, begun at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from narthex.v1 import lot_pb2 as lot
from narthex.v1 import tool_pb2

from narthex_server.errors import NotFound, OutOfRange, Unavailable
from narthex_server.lot.desk import Desk, Kept
from narthex_server.lot.ticket import Ticket
from narthex_server.principal import REQUEST_ID
from narthex_server.services.failure import failure
from narthex_server.services.relay import Context
from narthex_server.services.works.orders import Orders
from narthex_server.services.works.whose import Whose
from narthex_server.services.works.window import Window
from narthex_server.services.works.works import Works
from narthex_server.tools.acts import Acts

CALL = "call_tool"
MOST_LOOKED_AT = 1000
"""Tickets among which a call is looked for by a name of its caller's, the newest ones."""


class LotParking:
    """A Parking whose tickets a desk has."""

    def __init__(self, desk: Desk, works: Works, orders: Orders, acts: Acts) -> None:
        self._desk = desk
        self._window = Window(desk)
        self._works = works
        self._orders = orders
        self._acts = acts

    async def stream(self, kind: str, request: Any, context: Context) -> AsyncGenerator[Any]:
        ticket = await self._begun(kind, request, context)
        async with aclosing(self._sent(ticket, await self._beginning(ticket))) as events:
            async for event in events:
                yield event

    async def result(self, kind: str, request: Any, context: Context) -> Any:
        ticket = await self._begun(kind, request, context)
        made: list[Any] = []
        async with aclosing(self._events(ticket, 0)) as events:
            async for event in events:
                if isinstance(event, lot.Restarted):
                    made.clear()
                else:
                    made.append(event)
        return next(self._works.kind(kind).results(made))

    async def resume(self, call_id: str, after: int) -> AsyncGenerator[tool_pb2.CallToolResponse]:
        ticket = await self._called(call_id)
        if after > ticket.events:
            raise OutOfRange(
                f"the call has {ticket.events} events so far, {after} is none of them", reason="NO_SUCH_EVENT"
            )
        async with aclosing(self._sent(ticket, after)) as events:
            async for event in events:
                yield event

    async def _begun(self, kind: str, request: Any, context: Context) -> Ticket:
        self._acts.enter()
        own = type(request)()
        own.CopyFrom(request)
        order = await self._orders.make(
            self._works.kind(kind), own, context, REQUEST_ID.get(), context.time_remaining()
        )
        ticket, new = await self._window.begin(order)
        if new:
            self._works.lend(order.tenant, order.id, context.invocation_metadata() or ())
        return ticket

    async def _beginning(self, ticket: Ticket) -> int:
        """The event after which the work last began anew; 0 where it has not."""
        place, order = 0, ticket.order
        if ticket.attempt > 1:
            now = asyncio.get_running_loop().time()
            async with aclosing(self._desk.follow(order.tenant, order.id, until=now)) as told:
                async for one in told:
                    if isinstance(one, Kept) and lot.WorkEvent.FromString(one.event).HasField("restarted"):
                        place = one.sequence
        return place

    async def _sent(self, ticket: Ticket, after: int) -> AsyncGenerator[Any]:
        """The events of the work for a stream, which cannot take back what it has sent."""
        async with aclosing(self._events(ticket, after)) as events:
            async for event in events:
                if isinstance(event, lot.Restarted):
                    raise Unavailable(
                        "the work was begun anew and came to something else; its ticket has the new events",
                        reason="RESTARTED",
                        metadata={"ticket_id": ticket.order.id},
                    )
                yield event

    async def _events(self, ticket: Ticket, after: int) -> AsyncGenerator[Any]:
        """What happened and happens in the ticket's work; raises what it has failed with."""
        order = ticket.order
        async with aclosing(self._desk.follow(order.tenant, order.id, after)) as told:
            async for one in told:
                if isinstance(one, Kept):
                    event = lot.WorkEvent.FromString(one.event)
                    if event.HasField("restarted"):
                        yield event.restarted
                    else:
                        yield _numbered(getattr(event, order.kind), one.sequence)
                elif one.state.over and (error := failure(one)) is not None:
                    raise error

    async def _called(self, call_id: str) -> Ticket:
        """The ticket of a call, by its caller's name for it or by its request id. Raises NotFound."""
        before = None
        try:
            found = await self._window.get(call_id)
            if found.order.kind == CALL and _name(found) in ("", call_id):
                return found
        except NotFound:
            pass
        for _ in range(MOST_LOOKED_AT // 100):
            page = await self._window.list((), before, 100)
            for one in self._window.shown(page):
                if one.order.kind == CALL and _name(one) == call_id:
                    return await self._window.get(one.order.id)
            if len(page) < 100:
                break
            before = page[-1].order.submitted, page[-1].order.id
        raise NotFound(f"no call {call_id[:200]!r} was parked", reason="CALL_NOT_FOUND")


def _name(ticket: Ticket) -> str:
    return Whose.parse(ticket.order.principal).call


def _numbered(event: Any, sequence: int) -> Any:
    """A call's events say which they are, so that it can be resumed."""
    if isinstance(event, tool_pb2.CallToolResponse):
        event.sequence = sequence
    return event
