"""An MCP server over stdio that answers SQL over one SQLite file, and never changes it.

The file is opened for reading, statements that are not SELECT are refused before they run, other files cannot be
attached, and every query has limits of rows, bytes, memory and time.
"""

import argparse
import asyncio
import math
import os
import sqlite3
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import quote

import mcp_types as types

from narthex_mcp.toolbox import Answer, Argument, Refused, Resources, ToolSpec, as_json, create_server, serve

MEMORY = 256 * 1024 * 1024
LONGEST_SQL = 64 * 1024
SCHEMA_URI = "sqlite:///schema"
GRACE = 5.0
"""Seconds above its limit after which a query is one that SQLite cannot stop: it is within one call of a function."""
STEPS = 2000
"""Instructions of SQLite's machine between two looks at the clock: a fraction of a millisecond."""

_ALLOWED = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE))
_PRAGMAS = frozenset(("table_info", "table_xinfo", "index_list", "index_info", "foreign_key_list", "data_version"))
_FUNCTIONS = frozenset(("load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "printf", "format"))
"""Functions that reach beyond the database, if they are there, or that nothing stops: a width of 2³¹ takes minutes."""

_STRING = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one query: rows and bytes of its answer, and seconds that it may take."""

    rows: int = 1000
    bytes: int = 1024 * 1024
    seconds: float = 5.0


class Database:
    """One SQLite file, opened for each question anew and for reading only.

    `immutable` is for files that nobody changes, as on media that cannot be written: they are not locked then. `stuck`
    is called, in a thread, where a query cannot be stopped.
    """

    def __init__(
        self, file: Path, limits: Limits, immutable: bool = False, stuck: Callable[[], object] = lambda: None
    ) -> None:
        mode = "mode=ro&immutable=1" if immutable else "mode=ro"
        place = file.resolve(strict=True)
        if not place.is_file():  # opening a pipe may never return
            raise Refused("it is not a regular file")
        self._uri = f"file:{quote(str(place))}?{mode}"
        self._limits = limits
        self._stuck = stuck
        with self._open() as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    def query(self, sql: str, parameters: list[Any] | dict[str, Any] | None, limit: int) -> Answer:
        """The rows of one SELECT; values that JSON does not have become objects or text."""
        most = min(limit, self._limits.rows)
        with self._open() as connection:
            cursor = connection.execute(sql, () if parameters is None else _bindable(parameters))
            if cursor.description is None:
                raise Refused("the statement gives no rows; only SELECT can be asked")
            columns = [column[0] for column in cursor.description]
            rows: list[list[Any]] = []
            size, full = 0, False
            for row in cursor:
                size += sum(_size(value) for value in row)
                if len(rows) == most or size > self._limits.bytes:
                    full = True
                    break
                rows.append([_json(value) for value in row])
        return as_json({"columns": columns, "rows": rows, "truncated": full})

    def list_tables(self) -> Answer:
        """The names of tables and views."""
        names = (
            "SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') "
            "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
        )
        with self._open() as connection:
            tables = [{"name": name, "kind": kind} for name, kind in connection.execute(names)]
        return as_json({"tables": tables})

    def describe_table(self, table: str) -> Answer:
        """The columns of a table or view, its indexes and foreign keys, and the statement that made it."""
        with self._open() as connection:
            made = connection.execute(
                "SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE",
                (table,),
            ).fetchone()
            if made is None:
                raise Refused(f"there is no table {table[:200]!r}; list_tables names them")
            columns = [
                {"name": name, "type": kind, "not_null": bool(strict), "default": default, "primary_key": bool(key)}
                for _, name, kind, strict, default, key in connection.execute(
                    'SELECT cid, name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)', (made[0],)
                )
            ]
            keys = [
                {"column": own, "table": other, "references": there}
                for own, other, there in connection.execute(
                    'SELECT "from", "table", "to" FROM pragma_foreign_key_list(?)', (made[0],)
                )
            ]
            indexes = [
                {"name": name, "unique": bool(unique)}
                for name, unique in connection.execute('SELECT name, "unique" FROM pragma_index_list(?)', (made[0],))
            ]
        return as_json(
            {"name": made[0], "columns": columns, "foreign_keys": keys, "indexes": indexes, "sql": made[1] or ""}
        )

    def schema(self, uri: str) -> types.TextResourceContents:
        """All statements that made the database."""
        if uri != SCHEMA_URI:
            raise Refused(f"there is only {SCHEMA_URI}")
        with self._open() as connection:
            made = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")]
        return types.TextResourceContents(
            uri=uri, mime_type="application/sql", text="".join(f"{sql};\n" for sql in made)
        )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        until = time.monotonic() + self._limits.seconds
        watch = Timer(self._limits.seconds + GRACE, self._stuck)
        watch.daemon = True
        watch.start()
        try:
            with closing(
                sqlite3.connect(self._uri, uri=True, timeout=self._limits.seconds, cached_statements=0)
            ) as found:
                found.text_factory = lambda data: data.decode(errors="replace")
                found.execute(f"PRAGMA hard_heap_limit={MEMORY}")
                found.execute("PRAGMA temp_store=MEMORY")
                found.execute("PRAGMA query_only=ON")
                found.execute("PRAGMA trusted_schema=OFF")
                found.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(self._limits.bytes, LONGEST_SQL))
                found.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, LONGEST_SQL)
                found.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100)
                found.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
                found.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200)
                found.set_authorizer(_authorize)
                found.set_progress_handler(lambda: time.monotonic() > until, STEPS)
                yield found
        except MemoryError:
            raise Refused(f"the query needs more than {MEMORY} bytes of memory; ask for less") from None
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._refused(error) from None
        finally:
            watch.cancel()

    def _refused(self, error: Exception) -> Refused:
        text = str(error)
        if text == "interrupted":
            return Refused(f"the query took longer than {self._limits.seconds:g} s; ask for less")
        if text in ("not authorized", "attempt to write a readonly database") or text.startswith("not authorized"):
            return Refused("only SELECT is allowed: the database is read-only, and nothing can be attached or loaded")
        if "prohibited" in text or "one statement" in text:
            return Refused(f"{text}; only one SELECT over the tables of this database is allowed")
        return Refused(f"SQLite says: {text[:1000]}")


def _authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    if action in _ALLOWED:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FUNCTIONS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":  # said, not done, where a virtual table is opened
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _PRAGMAS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _bindable(parameters: list[Any] | dict[str, Any]) -> list[Any] | dict[str, Any]:
    values = parameters.values() if isinstance(parameters, dict) else parameters
    for value in values:
        if not (value is None or isinstance(value, str | int | float)):
            raise Refused("parameters must be strings, numbers, booleans or null")
    return parameters


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 8


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _give_up() -> None:
    """Ends the process, which is all that ends such a query; whoever started it can start it again."""
    print("narthex-mcp-sqlite: a query cannot be stopped: giving up", file=sys.stderr, flush=True)
    os._exit(os.EX_SOFTWARE)


def tools(database: Database, limits: Limits) -> tuple[ToolSpec, ...]:
    column = {"type": "object", "properties": {"name": _STRING, "type": _STRING}}
    objects = {"type": "array", "items": {"type": "object"}}
    return (
        ToolSpec(
            "query", "Run one read-only SQL SELECT on the database",
            {
                "sql": Argument("One SELECT, in SQLite's dialect; ? or :name for parameters"),
                "parameters": Argument("Values for ? (an array) or for :name (an object)", ("array", "object"), None),
                "limit": Argument("The most rows", ("integer",), min(100, limits.rows), 1, limits.rows),
            },
            {
                "columns": {"type": "array", "items": _STRING},
                "rows": {"type": "array", "items": {"type": "array"}},
                "truncated": {"type": "boolean", "description": "Whether there are more rows"},
            },
            database.query,
        ),
        ToolSpec("list_tables", "List tables and views", {}, {"tables": objects}, database.list_tables),
        ToolSpec(
            "describe_table", "Describe the columns, keys and indexes of a table or view",
            {"table": Argument("Its name")},
            {
                "name": _STRING, "columns": {"type": "array", "items": column},
                "foreign_keys": objects, "indexes": objects, "sql": _STRING,
            },
            database.describe_table,
        ),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    usual = Limits()
    parser = argparse.ArgumentParser(prog="narthex-mcp-sqlite", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("database", type=Path, help="the SQLite file")
    parser.add_argument("--max-rows", type=int, default=usual.rows, help="rows of one answer (%(default)s)")
    parser.add_argument("--max-bytes", type=int, default=usual.bytes, help="bytes of one answer (%(default)s)")
    parser.add_argument("--timeout", type=float, default=usual.seconds, help="seconds of one query (%(default)s)")
    parser.add_argument("--immutable", action="store_true", help="nobody changes the file: it need not be locked")
    options = parser.parse_args(argv)
    limits = Limits(options.max_rows, options.max_bytes, options.timeout)
    if min(limits.rows, limits.bytes, limits.seconds) <= 0:
        print("narthex-mcp-sqlite: limits must be above 0", file=sys.stderr)
        return 2
    try:
        database = Database(options.database, limits, options.immutable, _give_up)
    except (OSError, Refused) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        print(f"narthex-mcp-sqlite: {options.database} cannot be opened: {why}", file=sys.stderr)
        return 2
    schema = types.Resource(uri=SCHEMA_URI, name="schema", mime_type="application/sql", description="How it was made")
    about = "One SQLite database, to be read with SQL."
    resources = Resources(lambda: (schema,), database.schema)
    asyncio.run(serve(create_server("narthex-sqlite", about, tools(database, limits), resources)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
