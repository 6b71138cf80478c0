"""Wakes those who wait for something of a ticket to change."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from narthex_server.lot.ticket import Change

MOST_KNOWN = 10_000
"""Tickets whose versions a listener remembers; one that is forgotten may be told of once more."""


class Bell:
    """Rings when something is new that one listener waits for."""

    def __init__(self, events: bool) -> None:
        self._events = events
        self._versions: dict[str, int] = {}
        self._changed: set[str] = set()
        self._rung = asyncio.Event()

    def ring(self, change: Change) -> None:
        """Takes it in, unless it is only an event more and nobody asked for those."""
        if self._events or change.version > self._versions.get(change.id, 0):
            if len(self._versions) >= MOST_KNOWN:
                self._versions.clear()
            self._versions[change.id] = change.version
            self._changed.add(change.id)
            self._rung.set()

    def wake(self) -> None:
        """Whatever it is: something may have been missed."""
        self._rung.set()

    async def heard(self) -> set[str]:
        """Waits, and gives the ids that have changed; none where something may have been missed."""
        await self._rung.wait()
        self._rung.clear()
        changed, self._changed = self._changed, set()
        return changed


class News:
    """All who wait, by what they wait for; used on the event loop."""

    def __init__(self) -> None:
        self._bells: dict[tuple[str, str | None], set[Bell]] = {}

    @contextmanager
    def listen(self, tenant: str, tickets: Collection[str] = (), *, events: bool = False) -> Iterator[Bell]:
        """A bell for these tickets of the tenant, or for all of them; with `events` also for those of their work."""
        bell = Bell(events)
        keys: set[tuple[str, str | None]] = {(tenant, ticket) for ticket in tickets} or {(tenant, None)}
        for key in keys:
            self._bells.setdefault(key, set()).add(bell)
        try:
            yield bell
        finally:
            for key in keys:
                own = self._bells[key]
                own.discard(bell)
                if not own:
                    del self._bells[key]

    def tell(self, change: Change) -> None:
        """Something of a ticket is new."""
        for key in ((change.tenant, change.id), (change.tenant, None)):
            for bell in self._bells.get(key, ()):
                bell.ring(change)

    def wake(self) -> None:
        """Changes may have been missed."""
        for bells in self._bells.values():
            for bell in bells:
                bell.wake()
