"""Tickets, as callers ask for them and see them."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from narthex.v1 import lot_pb2 as wire

from narthex_server.errors import Violation, invalid
from narthex_server.lot.desk import Kept
from narthex_server.lot.ticket import State, Ticket
from narthex_server.services.paging import mark, marked
from narthex_server.services.priorities import SHOWN
from narthex_server.services.times import timestamp

LONGEST = float(1 << 40)
"""Seconds beyond which all durations are the same."""

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
_ASKED = {shown: state for state, shown in _STATES.items()}

Place = tuple[float, str]
"""Of a ticket in the list of its tenant's: when it was submitted, and its id."""


def ticket_to_wire(ticket: Ticket, ahead: int = 0) -> wire.Ticket:
    """A ticket as its owner sees it."""
    order = ticket.order
    return wire.Ticket(
        id=order.id,
        state=_STATES[ticket.state],
        priority=SHOWN[order.priority],
        ahead=ahead,
        submit_time=timestamp(order.submitted),
        start_time=timestamp(ticket.started),
        end_time=timestamp(ticket.ended),
        expire_time=timestamp(ticket.expires),
        version=ticket.version,
    )


def event_to_wire(kept: Kept) -> wire.WorkEvent:
    """A kept event with its number."""
    event = wire.WorkEvent.FromString(kept.event)
    event.sequence = kept.sequence
    return event


def state_of(number: wire.TicketState.ValueType, field: str) -> State:
    """Errors: InvalidRequest."""
    if (state := _ASKED.get(number)) is None:
        raise invalid(Violation(field, f"{number} is not known to this server"))
    return state


def duration_of(request: wire.SubmitRequest, field: Literal["timeout", "keep"]) -> float | None:
    """In seconds; None where it is unset. Errors: InvalidRequest for none at all, or less."""
    if not request.HasField(field):
        return None
    if (seconds := _seconds(getattr(request, field))) <= 0:
        raise invalid(Violation(field, "must be more than 0"))
    return seconds


def wait_of(request: wire.FetchRequest) -> float:
    """In seconds. Errors: InvalidRequest for less than 0."""
    if (seconds := _seconds(request.wait)) < 0:
        raise invalid(Violation("wait", "must not be below 0"))
    return seconds


def page_token(last: Ticket) -> str:
    """Of the page after this ticket."""
    return mark(f"{last.order.submitted!r}/{last.order.id}")


def place_of(token: str) -> Place | None:
    """Where a page goes on; None for the first one. Errors: InvalidRequest."""
    if not token:
        return None
    submitted, _, name = marked(token).partition("/")
    try:
        place = float(submitted)
    except ValueError:
        place = math.nan
    if math.isnan(place):
        raise invalid(Violation("page_token", "is not one that this server gave; leave it empty to start again"))
    return place, name


def _seconds(duration: Duration) -> float:
    return min(duration.seconds + duration.nanos / 1e9, LONGEST)
