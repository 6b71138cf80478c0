"""Who clears away what has expired."""

from narthex_server.lot.forever import forever
from narthex_server.lot.news import News
from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.transition import TicketObserver, Transition, Verb

INTERVAL = 10.0
"""Seconds between two rounds."""


class Sweeper:
    """Goes through the store again and again, and tells what there is in it."""

    def __init__(self, store: TicketStore, news: News, observer: TicketObserver) -> None:
        self._store = store
        self._news = news
        self._observer = observer

    async def round(self) -> None:
        """Once. Errors: Unavailable."""
        for ticket in await self._store.sweep():
            self._news.tell(ticket.change)
            self._observer.on_transition(Transition(Verb.EXPIRED, ticket))
        self._observer.on_holding(await self._store.holding(None))

    async def run(self) -> None:
        """Without an end."""
        await forever("sweeping tickets", self.round, INTERVAL)
