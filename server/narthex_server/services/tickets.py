"""The RPCs of tickets, of which LotService is made with others."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

from narthex.v1 import lot_pb2 as wire

from narthex_server.errors import FailedPrecondition, Violation, invalid
from narthex_server.lot.desk import Desk, Kept
from narthex_server.lot.ticket import Quota, Ticket, Webhook
from narthex_server.lot.webhooks import Hosts
from narthex_server.pipelines.joined import joined
from narthex_server.principal import REQUEST_ID
from narthex_server.services.failure import failure
from narthex_server.services.paging import LARGEST as LARGEST_PAGE
from narthex_server.services.relay import Context
from narthex_server.services.ticket_messages import (
    duration_of,
    event_to_wire,
    page_token,
    place_of,
    state_of,
    ticket_to_wire,
    wait_of,
)
from narthex_server.services.works.orders import Orders
from narthex_server.services.works.window import Window
from narthex_server.services.works.works import Works
from narthex_server.sync.locks import Locks
from narthex_server.tools.acts import Acts
from narthex_server.worker import in_thread

MOST_WATCHED = 1000
"""Tickets that one call may name."""

MOST_FOLLOWED = 100
"""Those of which one call may follow the events."""

LONGEST_SECRET = 256

LARGE = 1 << 20
"""Bytes of request and events of which results are put together one after the other, beside the event loop."""

LARGEST = 64 << 20
"""Those of which none is: it would be too large for a message in any case."""


@dataclass(frozen=True, slots=True)
class Office:
    """Where tickets are given: `quota` is what a tenant may have, `hosts` which webhooks may be told."""

    desk: Desk
    works: Works
    orders: Orders
    quota: Quota
    hosts: Hosts
    acts: Acts


class TicketRpcs:
    """The part of LotService that is about tickets, those that the caller sees."""

    def __init__(self, office: Office, locks: Locks) -> None:
        self._office = office
        self._window = Window(office.desk)
        self._putting_together = locks.async_mutex("large_results")

    async def Submit(self, request: wire.SubmitRequest, context: Context) -> wire.SubmitResponse:
        self._office.acts.enter()
        name = request.work.WhichOneof("work")
        if name is None:
            raise invalid(Violation("work", "must be set"))
        kind = self._office.works.kind(name)
        asked = kind.request(request.work)
        asked.options.CopyFrom(request.options)
        order = await self._office.orders.make(
            kind,
            asked,
            context,
            REQUEST_ID.get(),
            duration_of(request, "timeout"),
            duration_of(request, "keep"),
            self._webhook(request.webhook) if request.HasField("webhook") else None,
        )
        ticket = await self._window.submit(order)
        return wire.SubmitResponse(ticket=await self._shown(ticket))

    async def GetTicket(self, request: wire.GetTicketRequest, context: Context) -> wire.GetTicketResponse:
        ticket = await self._window.get(request.ticket_id)
        asked = self._office.works.kind(ticket.order.kind).parse(ticket.order.request)
        return wire.GetTicketResponse(ticket=await self._shown(ticket), note=asked.options.note)

    async def Cancel(self, request: wire.CancelRequest, context: Context) -> wire.CancelResponse:
        self._office.acts.enter()
        ticket = await self._window.cancel(request.ticket_id)
        return wire.CancelResponse(ticket=ticket_to_wire(ticket))

    async def ListTickets(self, request: wire.ListTicketsRequest, context: Context) -> wire.ListTicketsResponse:
        states = [state_of(state, f"states[{index}]") for index, state in enumerate(request.states)]
        size, before = min(request.page_size or LARGEST_PAGE, LARGEST_PAGE), place_of(request.page_token)
        found = await self._window.list(states, before, size + 1)
        return wire.ListTicketsResponse(
            tickets=[await self._shown(ticket) for ticket in self._window.shown(found[:size])],
            next_page_token=page_token(found[size - 1]) if len(found) > size else "",
        )

    async def Fetch(self, request: wire.FetchRequest, context: Context) -> AsyncIterator[wire.FetchResponse]:
        wait = wait_of(request)
        async with aclosing(self._events(request, wait) if request.events else self._result(request, wait)) as answers:
            async for answer in answers:
                yield answer

    async def Watch(self, request: wire.WatchRequest, context: Context) -> AsyncIterator[wire.WatchResponse]:
        names = [*dict.fromkeys(request.ticket_ids)]
        _check_watch(request, names)
        async with aclosing(self._followed(request, names) if request.events else self._watched(names)) as answers:
            async for answer in answers:
                yield answer

    async def _events(self, request: wire.FetchRequest, wait: float) -> AsyncGenerator[wire.FetchResponse]:
        """What happens in the work until it is over, or the time is."""
        until = asyncio.get_running_loop().time() + wait
        async with aclosing(self._window.follow(request.ticket_id, request.after_sequence, until)) as told:
            async for one in told:
                if isinstance(one, Kept):
                    yield wire.FetchResponse(event=event_to_wire(one))
                elif one.state.over and (error := failure(one)) is not None:
                    raise error

    async def _result(self, request: wire.FetchRequest, wait: float) -> AsyncGenerator[wire.FetchResponse]:
        """What the work has come to. Errors: FailedPrecondition where it is not over in time; the work's own."""
        name = request.ticket_id
        ticket = await self._window.get(name)
        if not ticket.state.over and wait:
            ticket = await self._changed(ticket, wait)
        if not ticket.state.over:
            raise FailedPrecondition(
                f"ticket {name!r} is not finished yet; it is {ticket.state.value}",
                reason="NOT_FINISHED",
                metadata={"ticket_id": name, "state": ticket.state.value},
            )
        if (error := failure(ticket)) is not None:
            raise error
        for response in await self._put_together(ticket):
            yield response

    async def _changed(self, ticket: Ticket, seconds: float) -> Ticket:
        """As it is when it is over, or the time is."""
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(seconds),
                aclosing(self._window.watch((ticket.order.id,))) as changes,
            ):
                async for changed in changes:
                    ticket = changed
        return ticket

    async def _watched(self, names: Sequence[str]) -> AsyncGenerator[wire.WatchResponse]:
        """The tickets whenever they change."""
        async with aclosing(self._window.watch(names)) as tickets:
            async for ticket in tickets:
                yield wire.WatchResponse(ticket=await self._shown(ticket))

    async def _followed(self, request: wire.WatchRequest, names: Sequence[str]) -> AsyncGenerator[wire.WatchResponse]:
        """The tickets whenever they change, and what happens in their work."""
        for name in names:
            await self._window.get(name)
        streams = [self._window.follow(name, request.after_sequence) for name in names]
        async with aclosing(joined(streams)) as told:
            async for place, one in told:
                if isinstance(one, Kept):
                    yield wire.WatchResponse(ticket=wire.Ticket(id=names[place]), event=event_to_wire(one))
                else:
                    yield wire.WatchResponse(ticket=await self._shown(one))

    async def _put_together(self, ticket: Ticket) -> Sequence[wire.FetchResponse]:
        """What a ticket that is over has come to. Errors: FailedPrecondition where that is too much."""
        name, large = ticket.order.id, ticket.size > LARGE
        if ticket.size > LARGEST:
            raise FailedPrecondition(
                f"the {ticket.size} bytes of ticket {name!r} are too many for one message; fetch its events",
                reason="RESULT_TOO_LARGE",
                metadata={"ticket_id": name, "bytes": str(ticket.size), "max_bytes": str(LARGEST)},
            )
        async with self._putting_together if large else nullcontext():
            async with aclosing(self._window.follow(name)) as told:
                kept = [one.event async for one in told if isinstance(one, Kept)]
            made = partial(list[wire.FetchResponse], self._office.works.results(ticket.order, kept))
            return await in_thread(made) if large else made()

    async def _shown(self, ticket: Ticket) -> wire.Ticket:
        return ticket_to_wire(ticket, await self._window.ahead(ticket))

    def _webhook(self, webhook: wire.Webhook) -> Webhook:
        self._office.hosts.check(webhook.url, "webhook.url")
        if len(webhook.secret) > LONGEST_SECRET:
            raise invalid(Violation("webhook.secret", f"must have at most {LONGEST_SECRET} characters"))
        return Webhook(webhook.url, webhook.secret)


def _check_watch(request: wire.WatchRequest, names: Sequence[str]) -> None:
    most = MOST_FOLLOWED if request.events else MOST_WATCHED
    if len(names) > most:
        raise invalid(Violation("ticket_ids", f"has {len(names)} entries; at most {most} can be watched"))
    if request.events and not names:
        raise invalid(Violation("events", "needs the tickets to be named"))
    if request.after_sequence and (len(names) != 1 or not request.events):
        raise invalid(Violation("after_sequence", "is of the events of a single ticket"))
