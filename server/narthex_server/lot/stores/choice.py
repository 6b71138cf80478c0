"""Which store a setting names."""

from pathlib import Path

from narthex.settings import SettingsError

from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.ticket import Quota

_SQLITE = "sqlite:"


def chosen(where: str, quota: Quota) -> TicketStore:
    """The tickets in a file of SQLite, `PATH` or `sqlite:PATH`, or in a database, `postgresql://…`.

    Raises SettingsError, whose text repeats nothing of a URL; Unavailable and FailedPrecondition where a file cannot be
    used.
    """
    if where.startswith(("postgresql:", "postgres:")):
        return _postgres(where, quota)
    path = where.removeprefix(_SQLITE)
    if not path or "://" in path:
        raise SettingsError("tickets: the store is neither a path, nor sqlite:PATH, nor postgresql://…")
    from narthex_server.lot.stores.sqlite.store import SqliteTickets

    return SqliteTickets(Path(path).expanduser(), quota)


def _postgres(url: str, quota: Quota) -> TicketStore:
    try:
        from narthex_server.lot.stores.postgres.location import Location
        from narthex_server.lot.stores.postgres.tickets import PostgresTickets
    except ImportError:
        raise SettingsError('tickets: PostgreSQL needs the package psycopg: pip install "narthex[postgres]"') from None
    try:
        return PostgresTickets(Location.parse(url), quota)
    except ValueError as error:
        raise SettingsError(f"tickets: the URL of the store {error}") from None
