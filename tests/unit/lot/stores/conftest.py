"""Every store passes the same tests; the reference shows that the tests ask for what is promised."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from narthex_server.lot.stores.store import TicketStore

from tests.unit.lot.stores.places import Place, ReferencePlace, SqlitePlace

PLACES: dict[str, Callable[[Path], Place]] = {
    "reference": lambda _: ReferencePlace(),
    "sqlite": lambda folder: SqlitePlace(folder / "tickets.db"),
}


@pytest.fixture(params=PLACES)
def make_place(request: pytest.FixtureRequest) -> Callable[[Path], Place]:
    """A new place for tickets in a folder of its own."""
    return PLACES[request.param]


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
