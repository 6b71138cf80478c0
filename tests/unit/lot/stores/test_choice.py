"""Which store a setting names."""

import sys
from pathlib import Path

import pytest
from narthex.settings import SettingsError
from narthex_server.lot.stores.choice import chosen
from narthex_server.lot.stores.postgres.location import Location
from narthex_server.lot.stores.postgres.tickets import PostgresTickets
from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.ticket import Quota


@pytest.mark.parametrize("before", ["", "sqlite:"])
async def test_a_path_is_a_file_of_sqlite(tmp_path: Path, before: str) -> None:
    store = chosen(f"{before}{tmp_path}/tickets.db", Quota())
    assert isinstance(store, SqliteTickets)
    await store.close()
    assert (tmp_path / "tickets.db").exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_a_url_is_a_database(scheme: str) -> None:
    store = chosen(f"{scheme}://ann:s3cret@db.example/lot?sslmode=require&schema=parking", Quota())
    assert isinstance(store, PostgresTickets)
    await store.close()


@pytest.mark.parametrize(
    "where",
    [
        "", "sqlite:", "mysql://ann:s3cret@host/db", "redis://:s3cret@host", "postgresql:ann:s3cret@host",
        "postgresql://ann:s3cret@host/db?nonsense=1", "postgresql://ann:s3cret@host/%zz",
        "postgresql://ann:s3cret@[::1/db", "postgresql://ann:s3cret@host/db?schema=a&schema=b",
        "postgresql://ann:s3cret@host/db?schema=Drop%20Table",
    ],
)  # fmt: skip
def test_anything_else_is_an_error_that_repeats_no_secret(where: str) -> None:
    with pytest.raises(SettingsError) as refused:
        chosen(where, Quota())
    assert str(refused.value).startswith("tickets: ")
    assert "s3cret" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__cause__ is None


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("narthex_server.lot.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"narthex\[postgres\]"):
        chosen("postgresql://host/db", Quota())


def test_the_schema_is_not_the_clients_to_read() -> None:
    found = Location.parse("postgresql://a,b/db?host=%2Ftmp%2Fx&schema=parking&sslmode=require")
    assert (found.url, found.schema) == ("postgresql://a,b/db?host=%2Ftmp%2Fx&sslmode=require", "parking")
    assert Location.parse("postgresql://host/db?schema=parking").url == "postgresql://host/db"
    assert Location.parse("postgresql://host/db").schema == "narthex"
    assert "s3cret" not in repr(Location.parse("postgresql://ann:s3cret@host/db"))
