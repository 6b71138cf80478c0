"""Where tests keep tickets, and the servers that share them."""

from pathlib import Path
from typing import Protocol

from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.ticket import Order, Quota

from tests.unit.lot.stores.reference import Data, ReferenceTickets

START = 1_000_000.0
"""Every test begins at this time, in seconds since 1970."""


class Place(Protocol):
    """The data of one test; `shared`: several servers can have it open at once."""

    shared: bool

    async def open(self, quota: Quota = ...) -> TicketStore:
        """One more server on the same data."""
        ...

    def advance(self, seconds: float) -> None:
        """Moves the clock of all servers."""
        ...


class ReferencePlace:
    shared = True

    def __init__(self) -> None:
        self._data = Data(START)

    async def open(self, quota: Quota = Quota()) -> TicketStore:  # noqa: B008 (frozen)
        return ReferenceTickets(self._data, quota)

    def advance(self, seconds: float) -> None:
        self._data.now += seconds


class SqlitePlace:
    shared = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = START

    async def open(self, quota: Quota = Quota()) -> TicketStore:  # noqa: B008 (frozen)
        return SqliteTickets(self.path, quota, clock=lambda: self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds


def order(name: str, tenant: str = "acme", **more: object) -> Order:
    """Work that says `name`; submitted at START."""
    told = {"principal": b"{}", "kind": "chat", "request": name.encode(), "digest": name.encode(), "keep": 3600.0}
    return Order(**{"id": name, "tenant": tenant, "submitted": START, **told, **more})  # type: ignore[arg-type]
