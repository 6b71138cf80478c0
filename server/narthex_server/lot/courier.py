"""Tells those who wanted to be told that a ticket is over."""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from narthex_server.errors import Unavailable
from narthex_server.lot.forever import forever
from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.ticket import Ticket, Webhook
from narthex_server.lot.transition import TicketObserver, Transition, Verb

LOOK = 2.0
"""Seconds between two looks for tickets to be told of."""

AT_ONCE = 32
"""Webhooks that are told at the same time."""

SOONEST, LATEST = 1.0, 600.0
"""Seconds until a webhook is tried again: as long as it has been tried already, within these bounds."""

TIMESTAMP, SIGNATURE = "x-narthex-timestamp", "x-narthex-signature"

log = logging.getLogger(__name__)


class Post(Protocol):
    """The way to a webhook."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> str:
        """Sends it once; gives why it did not arrive, for the log, empty where it did."""
        ...


class Courier:
    """Tells each webhook until it answers, ever later, while there is a result."""

    def __init__(
        self, store: TicketStore, post: Post, observer: TicketObserver, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._post = post
        self._observer = observer
        self._clock = clock

    async def round(self) -> None:
        """Tells those that are to be told now. Errors: Unavailable."""
        while owed := await self._store.owed(AT_ONCE):
            await asyncio.gather(*map(self._tell, owed))

    async def run(self) -> None:
        """Without an end."""
        await forever("telling webhooks", self.round, LOOK)

    async def _tell(self, ticket: Ticket) -> None:
        order = ticket.order
        if order.webhook is None:
            return
        now = self._clock()
        body = told(ticket)
        failure = await self._post.send(order.webhook.url, signed(order.webhook, now, body), body)
        again: float | None = None
        if failure:
            again = min(max(now - (ticket.ended or now), SOONEST), LATEST)
            log.info("the webhook of ticket %s %s; again in %.0f s", order.id, failure, again)
        with suppress(Unavailable):  # then it is told once more
            await self._store.told(order.tenant, order.id, again)
        self._observer.on_transition(Transition(Verb.TOLD, ticket, "WEBHOOK_FAILED" if failure else ""))


def told(ticket: Ticket) -> bytes:
    """What a webhook is told, as JSON."""
    ended = datetime.fromtimestamp(ticket.ended or 0, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = {"ticket_id": ticket.order.id, "state": ticket.state.value, "end_time": ended}
    return json.dumps(said, separators=(",", ":")).encode()


def signed(webhook: Webhook, now: float, body: bytes) -> dict[str, str]:
    """The headers that go with a body: the time, and where there is a secret the signature of both."""
    headers = {"content-type": "application/json", "user-agent": "narthex", TIMESTAMP: str(int(now))}
    if webhook.secret:
        digest = hmac.new(webhook.secret.encode(), f"{int(now)}.".encode() + body, hashlib.sha256)
        headers[SIGNATURE] = f"sha256={digest.hexdigest()}"
    return headers
