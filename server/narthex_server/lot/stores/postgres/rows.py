"""Tickets as rows."""

from collections.abc import Sequence
from typing import Any

from narthex_server.lot.terms import Priority
from narthex_server.lot.ticket import Order, State, Ticket, Webhook


def ticket(row: Sequence[Any]) -> Ticket:
    """Of the columns that statements give, in their order; what comes after them is not looked at."""
    (
        tenant, name, principal, kind, request, digest, submitted, keep, deadline, priority, key, repeatable, url,
        secret, state, version, attempt, started, ended, expires, events, size, code, status, *_,
    ) = row  # fmt: skip
    order = Order(
        id=name,
        tenant=tenant,
        principal=principal,
        kind=kind,
        request=request,
        digest=digest,
        submitted=submitted,
        keep=keep,
        deadline=deadline,
        priority=Priority(priority),
        key="" if key is None else key.decode(),
        repeatable=repeatable,
        webhook=None if url is None else Webhook(url, secret),
    )
    return Ticket(
        order, State(state), version, attempt, started, ended, expires, events, size, code=code, status=status
    )


def values(order: Order) -> dict[str, object]:
    """An order's columns by name."""
    webhook = order.webhook
    return {
        "tenant": order.tenant,
        "ticket": order.id,
        "principal": order.principal,
        "kind": order.kind,
        "request": order.request,
        "digest": order.digest,
        "submitted": order.submitted,
        "keep": order.keep,
        "deadline": order.deadline,
        "priority": int(order.priority),
        "key": order.key.encode() or None,
        "repeatable": order.repeatable,
        "webhook_url": None if webhook is None else webhook.url,
        "webhook_secret": None if webhook is None else webhook.secret,
        "rank": order.rank,
        "size": len(order.request),
    }
