"""Tickets as rows of the table."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from narthex_server.lot.stores.sqlite import schema
from narthex_server.lot.terms import Priority
from narthex_server.lot.ticket import Order, State, Ticket, Webhook

NUMBERS: Mapping[State, int] = MappingProxyType(
    {
        State.WAITING: schema.WAITING,
        State.RUNNING: schema.RUNNING,
        State.INPUT_REQUIRED: schema.INPUT_REQUIRED,
        State.DONE: schema.DONE,
        State.FAILED: schema.FAILED,
        State.CANCELLED: schema.CANCELLED,
    }
)
_STATES = {number: state for state, number in NUMBERS.items()}

COLUMNS = (
    "id, tenant, principal, kind, digest, submitted, keep, deadline, priority, key, repeatable, url, secret,"
    " state, version, attempt, started, ended, expires, events, size, code, status"
)
"""What `ticket` reads."""

REQUEST = "(select body from requests where requests.ref = tickets.ref)"
"""To be selected after COLUMNS where the request is wanted."""


def ticket(row: Sequence[Any]) -> Ticket:
    """Of a row of COLUMNS, with REQUEST or without."""
    (
        name, tenant, principal, kind, digest, submitted, keep, deadline, priority, key, repeatable, url, secret,
        state, version, attempt, started, ended, expires, events, size, code, status, *request,
    ) = row  # fmt: skip
    order = Order(
        id=name,
        tenant=tenant,
        principal=principal,
        kind=kind,
        request=request[0] if request else b"",
        digest=digest,
        submitted=float(submitted),
        keep=float(keep),
        deadline=_seconds(deadline),
        priority=Priority(priority),
        key=key or "",
        repeatable=bool(repeatable),
        webhook=None if url is None else Webhook(url, secret),
    )
    return Ticket(
        order=order,
        state=_STATES[state],
        version=version,
        attempt=attempt,
        started=_seconds(started),
        ended=_seconds(ended),
        expires=_seconds(expires),
        events=events,
        size=size,
        code=code,
        status=status,
    )


def _seconds(value: float | None) -> float | None:
    """Where `returning` gives a real number, one that is whole comes as an integer."""
    return None if value is None else float(value)
