"""Who clears away what has expired."""

import asyncio
import logging

from narthex_server.errors import Unavailable
from narthex_server.lot.news import News
from narthex_server.lot.observer import LotObserver, Transition, Verb
from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.ticket import Change

INTERVAL = 10.0
"""Seconds between two rounds."""

log = logging.getLogger(__name__)


class Keeper:
    """Goes through the store again and again, and tells what there is in it."""

    def __init__(self, store: TicketStore, news: News, observer: LotObserver) -> None:
        self._store = store
        self._news = news
        self._observer = observer

    async def round(self) -> None:
        """Once. Errors: Unavailable."""
        for ticket in await self._store.sweep():
            order = ticket.order
            self._news.tell(Change(order.tenant, order.id, ticket.version, ticket.events))
            self._observer.on_transition(Transition(Verb.EXPIRED, ticket))
        self._observer.on_holding(await self._store.holding(None))

    async def run(self) -> None:
        """Without an end."""
        while True:
            try:
                await self.round()
            except Unavailable as error:
                log.warning("tickets cannot be swept: %s", error.message)
            await asyncio.sleep(INTERVAL)
