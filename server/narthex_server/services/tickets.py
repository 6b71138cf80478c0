"""The RPCs of tickets, of which LotService is made with others."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from narthex.v1 import common_pb2 as common
from narthex.v1 import lot_pb2 as wire

from narthex_server.errors import FailedPrecondition, Violation
from narthex_server.lot.desk import Desk, Kept
from narthex_server.lot.terms import Priority
from narthex_server.lot.ticket import Quota, State, Ticket, Webhook
from narthex_server.lot.webhooks import Hosts
from narthex_server.pipelines.models import Kind, Models
from narthex_server.pipelines.request import refuse
from narthex_server.principal import REQUEST_ID
from narthex_server.services.failure import failure
from narthex_server.services.joined import joined
from narthex_server.services.paging import LARGEST as LARGEST_PAGE
from narthex_server.services.paging import mark, marked
from narthex_server.services.relay import Context
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

_STATES: Mapping[State, wire.TicketState.ValueType] = MappingProxyType(
    {
        State.WAITING: wire.TICKET_STATE_WAITING,
        State.RUNNING: wire.TICKET_STATE_RUNNING,
        State.INPUT_REQUIRED: wire.TICKET_STATE_INPUT_REQUIRED,
        State.DONE: wire.TICKET_STATE_DONE,
        State.FAILED: wire.TICKET_STATE_FAILED,
        State.CANCELLED: wire.TICKET_STATE_CANCELLED,
    }
)
_PRIORITIES: Mapping[Priority, common.Priority.ValueType] = MappingProxyType(
    {
        Priority.LOW: common.PRIORITY_BATCH,
        Priority.NORMAL: common.PRIORITY_NORMAL,
        Priority.HIGH: common.PRIORITY_INTERACTIVE,
        Priority.CRITICAL: common.PRIORITY_CRITICAL,
    }
)


@dataclass(frozen=True, slots=True)
class Office:
    """Where tickets are given: `quota` is what a tenant may have, `hosts` which webhooks may be told."""

    desk: Desk
    works: Works
    orders: Orders
    quota: Quota
    hosts: Hosts
    acts: Acts


class Tickets:
    """Tickets of callers."""

    def __init__(self, office: Office, models: Models, locks: Locks) -> None:
        self._office = office
        self._window = Window(office.desk)
        self._models = models
        self._putting_together = locks.async_mutex("large_results")

    async def Submit(self, request: wire.SubmitRequest, context: Context) -> wire.SubmitResponse:
        self._office.acts.enter()
        name = request.work.WhichOneof("work")
        if name is None:
            refuse([Violation("work", "must be set")])
            raise AssertionError
        kind = self._office.works.kind(name)
        asked = kind.request(request.work)
        asked.options.CopyFrom(request.options)
        order = await self._office.orders.make(
            kind,
            asked,
            context,
            REQUEST_ID.get(),
            _seconds(request, "timeout"),
            _seconds(request, "keep"),
            self._webhook(request.webhook) if request.HasField("webhook") else None,
        )
        ticket = await self._window.submit(order)
        return wire.SubmitResponse(ticket=await self._shown(ticket))

    async def GetTicket(self, request: wire.GetTicketRequest, context: Context) -> wire.GetTicketResponse:
        ticket = await self._window.get(request.ticket_id)
        return wire.GetTicketResponse(ticket=await self._shown(ticket))

    async def Cancel(self, request: wire.CancelRequest, context: Context) -> wire.CancelResponse:
        self._office.acts.enter()
        ticket = await self._window.cancel(request.ticket_id)
        return wire.CancelResponse(ticket=ticket_to_wire(ticket))

    async def ListTickets(self, request: wire.ListTicketsRequest, context: Context) -> wire.ListTicketsResponse:
        states = [_state(state, f"states[{index}]") for index, state in enumerate(request.states)]
        size, before = min(request.page_size or LARGEST_PAGE, LARGEST_PAGE), _place(request.page_token)
        found = await self._window.list(states, before, size + 1)
        shown, last = found[:size], found[size - 1] if len(found) > size else None
        return wire.ListTicketsResponse(
            tickets=[await self._shown(ticket) for ticket in self._window.shown(shown)],
            next_page_token=mark(f"{last.order.submitted!r}/{last.order.id}") if last is not None else "",
        )

    async def Fetch(self, request: wire.FetchRequest, context: Context) -> AsyncIterator[wire.FetchResponse]:
        wait = _seconds(request, "wait") or 0.0
        if request.events:
            until = asyncio.get_running_loop().time() + wait
            following = self._window.follow(request.ticket_id, request.after_sequence, until)
            async with aclosing(following) as told:
                async for one in told:
                    if isinstance(one, Kept):
                        yield wire.FetchResponse(event=_event(one))
                    elif one.state.over and (error := failure(one)) is not None:
                        raise error
            return
        ticket = await self._ended(request.ticket_id, wait)
        if (error := failure(ticket)) is not None:
            raise error
        for response in await self._results(ticket):
            yield response

    async def Watch(self, request: wire.WatchRequest, context: Context) -> AsyncIterator[wire.WatchResponse]:
        names = [*dict.fromkeys(request.ticket_ids)]
        self._check_watch(request, names)
        if not request.events:
            async with aclosing(self._window.watch(names)) as tickets:
                async for ticket in tickets:
                    yield wire.WatchResponse(ticket=await self._shown(ticket))
            return
        for name in names:
            await self._window.get(name)
        streams = [self._window.follow(name, request.after_sequence) for name in names]
        async with aclosing(joined(streams)) as told:
            async for place, one in told:
                if isinstance(one, Kept):
                    yield wire.WatchResponse(ticket=wire.Ticket(id=names[place]), event=_event(one))
                else:
                    yield wire.WatchResponse(ticket=await self._shown(one))

    async def GetOccupancy(self, request: wire.GetOccupancyRequest, context: Context) -> wire.GetOccupancyResponse:
        models = [self._models.find(request.model)] if request.model else [*self._models]
        holding = await self._window.holding()
        response = wire.GetOccupancyResponse(
            open_tickets=holding.open,
            max_open_tickets=self._office.quota.open,
            parked_results=holding.parked,
            parked_bytes=holding.size,
            max_parked_bytes=self._office.quota.size,
        )
        for model in models:
            if model.kind is Kind.TEXT:
                stats = model.handle.snapshot()  # type: ignore[union-attr]
                share = stats.kv_tokens_used / stats.kv_tokens_capacity if stats.kv_tokens_capacity else 0.0
                response.models.add(
                    model=model.name, running=stats.running, max_running=stats.slots, waiting=stats.waiting,
                    kv_usage=share,
                )  # fmt: skip
            else:
                running = model.handle.requests()  # type: ignore[union-attr]
                response.models.add(model=model.name, running=running, max_running=model.slots)
        return response

    async def _ended(self, name: str, seconds: float) -> Ticket:
        """The ticket when it is over; raises FailedPrecondition where it is not in time."""
        ticket = await self._window.get(name)
        try:
            async with asyncio.timeout(seconds), aclosing(self._window.watch((name,))) as changes:
                async for changed in changes if not ticket.state.over else _nothing():
                    ticket = changed
        except TimeoutError:
            pass
        if not ticket.state.over:
            raise FailedPrecondition(
                f"ticket {name!r} is not finished yet; it is {ticket.state.value}",
                reason="NOT_FINISHED",
                metadata={"ticket_id": name, "state": ticket.state.value},
            )
        return ticket

    async def _results(self, ticket: Ticket) -> Sequence[wire.FetchResponse]:
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
            refuse([Violation("webhook.secret", f"must have at most {LONGEST_SECRET} characters")])
        return Webhook(webhook.url, webhook.secret)

    @staticmethod
    def _check_watch(request: wire.WatchRequest, names: Sequence[str]) -> None:
        most = MOST_FOLLOWED if request.events else MOST_WATCHED
        if len(names) > most:
            refuse([Violation("ticket_ids", f"has {len(names)} entries; at most {most} can be watched")])
        if request.events and not names:
            refuse([Violation("events", "needs the tickets to be named")])
        if request.after_sequence and (len(names) != 1 or not request.events):
            refuse([Violation("after_sequence", "is of the events of a single ticket")])


def ticket_to_wire(ticket: Ticket, ahead: int = 0) -> wire.Ticket:
    """A ticket as its owner sees it."""
    order = ticket.order
    return wire.Ticket(
        id=order.id,
        state=_STATES[ticket.state],
        priority=_PRIORITIES[order.priority],
        ahead=ahead,
        submit_time=_time(order.submitted),
        start_time=_time(ticket.started),
        end_time=_time(ticket.ended),
        expire_time=_time(ticket.expires),
        version=ticket.version,
    )


async def _nothing() -> AsyncGenerator[Ticket]:
    return
    yield


def _event(kept: Kept) -> wire.WorkEvent:
    event = wire.WorkEvent.FromString(kept.event)
    event.sequence = kept.sequence
    return event


def _time(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    made = Timestamp()
    made.FromMicroseconds(round(seconds * 1e6))
    return made


def _seconds(request: wire.SubmitRequest | wire.FetchRequest, field: str) -> float | None:
    """A duration; None where it is unset. Errors: InvalidRequest for one below 0."""
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    duration = cast(Duration, getattr(request, field))
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds < 0 or (seconds == 0 and field != "wait"):
        refuse([Violation(field, "must be more than 0" if field != "wait" else "must not be below 0")])
    return min(seconds, float(1 << 40))


def _state(number: wire.TicketState.ValueType, field: str) -> State:
    for state, known in _STATES.items():
        if known == number:
            return state
    refuse([Violation(field, f"{number} is not known to this server")])
    raise AssertionError


def _place(token: str) -> tuple[float, str] | None:
    """Where a page goes on; None for the first one."""
    if not token:
        return None
    submitted, _, name = marked(token).partition("/")
    try:
        place = float(submitted)
    except ValueError:
        place = math.nan
    if math.isnan(place):
        refuse([Violation("page_token", "is not one that this server gave; leave it empty to start again")])
    return place, name
