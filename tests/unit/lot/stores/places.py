"""Where tests keep tickets, and the servers that share them."""

from pathlib import Path
from typing import Protocol
from uuid import uuid4

import psycopg
from narthex_server.lot.stores.postgres.location import Location
from narthex_server.lot.stores.postgres.tickets import PostgresTickets
from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.ticket import Order, Quota

from tests.unit.lot.stores.postgres_server import PostgresServer
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


class PostgresPlace:
    """A schema of its own in the server's database; tests move its clock."""

    shared = True

    def __init__(self, server: PostgresServer, console: "psycopg.Connection[tuple[object, ...]]") -> None:
        self.url = f"{server.url}&schema=test_{uuid4().hex}"
        self._console = console
        self._now = START

    async def open(self, quota: Quota = Quota()) -> TicketStore:  # noqa: B008 (frozen)
        store = PostgresTickets(Location.parse(self.url), quota)
        await store.holding("acme")
        self.advance(0)
        return store

    def advance(self, seconds: float) -> None:
        self._now += seconds
        schema = Location.parse(self.url).schema
        clock = f"FUNCTION {schema}.clock() RETURNS float8 LANGUAGE sql STABLE AS 'SELECT {self._now}::float8'"
        self._console.execute(f"CREATE OR REPLACE {clock}".encode())


def order(name: str, tenant: str = "acme", **more: object) -> Order:
    """Work that says `name`; submitted at START."""
    told = {"principal": b"{}", "kind": "chat", "request": name.encode(), "digest": name.encode(), "keep": 3600.0}
    return Order(**{"id": name, "tenant": tenant, "submitted": START, **told, **more})  # type: ignore[arg-type]
