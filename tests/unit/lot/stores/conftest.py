"""Every store passes the same tests; the reference shows that the tests ask for what is promised."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from narthex_server.lot.stores.store import TicketStore

from tests.unit.lot.stores.places import Place, PostgresPlace, ReferencePlace, SqlitePlace
from tests.unit.lot.stores.postgres_server import PostgresServer

PLACES: dict[str, Callable[[Path], Place]] = {
    "reference": lambda _: ReferencePlace(),
    "sqlite": lambda folder: SqlitePlace(folder / "tickets.db"),
}


@pytest.fixture(params=[*PLACES, pytest.param("postgres", marks=pytest.mark.system)])
def make_place(request: pytest.FixtureRequest) -> Callable[[Path], Place]:
    """A new place for tickets, in a folder of its own where it needs one."""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        console = request.getfixturevalue("postgres_console")
        return lambda _: PostgresPlace(server, console)
    return PLACES[request.param]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """For tests that do nothing to it."""
    with TemporaryDirectory() as folder:  # pytest's own are not for other users, nor short enough for a socket
        server = PostgresServer(Path(folder), ("fsync=off",))
        server.create()
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def postgres_console(postgres_server: PostgresServer) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    with psycopg.connect(postgres_server.url, autocommit=True) as console:
        yield console


@pytest.fixture
def place(make_place: Callable[[Path], Place], tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[TicketStore]:
    """A server that has the place open."""
    async with AsyncExitStack() as stack:
        opened = await place.open()
        stack.push_async_callback(opened.close)
        yield opened


@pytest.fixture
async def other(place: Place) -> AsyncIterator[TicketStore]:
    """Another server that has the same place open."""
    async with AsyncExitStack() as stack:
        opened = await place.open()
        stack.push_async_callback(opened.close)
        yield opened
